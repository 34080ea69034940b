//! Matrix products: the one place that calls `gemm`.

use gemm::Parallelism;

/// A matrix seen in a slice: element `(row, column)` lies at `row * row_stride + column * column_stride`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    elements: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix.
    pub(super) fn new(elements: &'a [f32], rows: usize, columns: usize) -> Self {
        assert!(elements.len() >= rows * columns, "matrix {rows}x{columns} of {} elements", elements.len());
        Self { elements, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// Some columns of a wider row-major matrix: row `r` starts `r * row_stride` after the first element.
    pub(super) fn strided(elements: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        let reach = if rows == 0 { 0 } else { (rows - 1) * row_stride + columns };
        assert!(
            elements.len() >= reach,
            "matrix {rows}x{columns} in rows of {row_stride} of {} elements",
            elements.len()
        );
        Self { elements, rows, columns, row_stride, column_stride: 1 }
    }

    /// The same elements with rows and columns exchanged.
    pub(super) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// What happens to the destination of a product.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Write {
    Replace,
    Accumulate,
}

/// `destination = left * right` (or `+=`), with a row-major destination.
///
/// `gemm` shares out tiles of the destination between threads and never cuts the sum of one element, so the result does
/// not depend on the number of threads.
pub(super) fn multiply(
    destination: &mut [f32],
    left: Matrix<'_>,
    right: Matrix<'_>,
    write: Write,
    parallelism: Parallelism,
) {
    multiply_into((destination, right.columns), left, right, write, parallelism);
}

/// `left * right`, row-major, in memory that nobody clears first.
pub(super) fn product(left: Matrix<'_>, right: Matrix<'_>, parallelism: Parallelism) -> Vec<f32> {
    let elements = left.rows * right.columns;
    assert_eq!(left.columns, right.rows, "inner sizes of a product differ");
    if left.columns == 0 {
        return vec![0.0; elements];
    }
    let mut result = Vec::with_capacity(elements);
    #[expect(unsafe_code, reason = "gemm takes pointers")]
    // SAFETY: as in `multiply_into`, with a destination of exactly `left.rows` rows of `right.columns` elements, all of
    // which gemm writes and, told not to read the destination, none of which it reads.
    unsafe {
        call(result.as_mut_ptr(), right.columns, (left, right), Write::Replace, parallelism);
        result.set_len(elements);
    }
    result
}

/// [`multiply`] with a destination that is some columns of a wider row-major matrix, given with that matrix's width.
pub(super) fn multiply_into(
    (destination, row_stride): (&mut [f32], usize),
    left: Matrix<'_>,
    right: Matrix<'_>,
    write: Write,
    parallelism: Parallelism,
) {
    let (rows, columns, depth) = (left.rows, right.columns, left.columns);
    assert_eq!(depth, right.rows, "inner sizes of a product differ");
    let reach = if rows == 0 { 0 } else { (rows - 1) * row_stride + columns };
    assert!(row_stride >= columns && destination.len() >= reach, "destination of a product is too small");
    if rows == 0 || columns == 0 {
        return;
    }
    #[expect(unsafe_code, reason = "gemm takes pointers")]
    // SAFETY: the assertions above hold the destination to elements that nothing else can reach and that lie apart from
    // each other.
    unsafe {
        call(destination.as_mut_ptr(), row_stride, (left, right), write, parallelism);
    }
}

/// Calls `gemm`.
///
/// # Safety
/// The destination has `left.rows` rows of `right.columns` elements, each row `row_stride` after the last, that nothing else
/// can reach; they are initialised unless they are replaced.
#[expect(unsafe_code, reason = "gemm takes pointers")]
unsafe fn call(
    destination: *mut f32,
    row_stride: usize,
    (left, right): (Matrix<'_>, Matrix<'_>),
    write: Write,
    parallelism: Parallelism,
) {
    // SAFETY: `Matrix::new` checked that every (row, column) lies inside its slice, and transposing keeps that; of the
    // destination the caller promises it.
    unsafe {
        gemm::gemm(
            left.rows,
            right.columns,
            left.columns,
            destination,
            1,
            row_stride as isize,
            write == Write::Accumulate,
            left.elements.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.elements.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            1.0_f32,
            1.0_f32,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// All threads of the current pool, or none where there is only one.
pub(super) fn all_threads() -> Parallelism {
    match rayon::current_num_threads() {
        1 => Parallelism::None,
        threads => Parallelism::Rayon(threads),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_of_columns_of_wider_matrices_equals_that_of_copies() {
        let wide: Vec<f32> = (0..6 * 10).map(|i| (i as f32 * 0.7).sin()).collect();
        let columns =
            |start: usize| -> Vec<f32> { wide.chunks(10).flat_map(|row| row[start..start + 4].to_vec()).collect() };
        let (left, right) = (columns(1), columns(6));
        let mut expected = vec![0.0; 36];
        multiply(
            &mut expected,
            Matrix::new(&left, 6, 4),
            Matrix::new(&right, 6, 4).transposed(),
            Write::Replace,
            Parallelism::None,
        );
        let mut got = vec![-1.0; 6 * 9];
        let (left, right) = (Matrix::strided(&wide[1..], 6, 4, 10), Matrix::strided(&wide[6..], 6, 4, 10).transposed());
        multiply_into((&mut got[2..], 9), left, right, Write::Replace, Parallelism::None);
        for (got, expected) in got.chunks(9).zip(expected.chunks(6)) {
            assert_eq!(got[2..8], *expected);
            assert_eq!((got[1], got[8]), (-1.0, -1.0));
        }
    }

    #[test]
    fn a_product_with_transposed_factors_equals_the_plain_sum() {
        let (m, n, k) = (5, 3, 7);
        let left: Vec<f32> = (0..m * k).map(|i| (i as f32 * 0.7).sin()).collect();
        let right: Vec<f32> = (0..k * n).map(|i| (i as f32 * 0.3).cos()).collect();
        let mut got = vec![1.0; m * n];
        let left_columns = Matrix::new(&left, k, m).transposed();
        let right_columns = Matrix::new(&right, n, k).transposed();
        multiply(&mut got, left_columns, right_columns, Write::Accumulate, Parallelism::None);
        let alone = product(left_columns, right_columns, Parallelism::None);
        for row in 0..m {
            for column in 0..n {
                let sum: f32 = (0..k).map(|i| left[i * m + row] * right[column * k + i]).sum();
                assert!((got[row * n + column] - 1.0 - sum).abs() < 1e-5);
                assert!((alone[row * n + column] - sum).abs() < 1e-5);
            }
        }
    }
}
