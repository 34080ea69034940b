//! How a convolution walks over framed images, so that patches are read where they lie and never copied.
//!
//! For every output pixel a patch is a few *runs* of neighbouring elements (one for each row of the kernel), at the same
//! distances from the pixel's *start* (the idea of the indirect convolution of Dukhan 2019, arXiv 1907.02129). The
//! gradient of the inputs is such a walk too, over the gradient of the outputs: with stride 1 one walk, else one for each
//! remainder of row and column.

use super::columns::Geometry;

/// Zeros around an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    height: usize,
    /// Elements of a row of the image.
    row: usize,
    channels: usize,
    top: usize,
    left: usize,
    framed_height: usize,
    pub(super) framed_width: usize,
}

impl Frame {
    /// Elements of an image.
    fn image_length(&self) -> usize {
        self.height * self.row
    }

    /// Elements of an image with its frame.
    pub(super) fn length(&self) -> usize {
        self.framed_height * self.framed_width * self.channels
    }

    /// Images with their frames, in `buffer` where that is needed; its frames are zero already, if it was used before.
    pub(super) fn fill<'a>(&self, images: &'a [f32], buffer: &'a mut Vec<f32>) -> &'a [f32] {
        if self.length() == self.image_length() {
            return images;
        }
        let count = images.len() / self.image_length();
        buffer.resize(count * self.length(), 0.0);
        let framed_row = self.framed_width * self.channels;
        for (framed, image) in buffer.chunks_exact_mut(self.length()).zip(images.chunks_exact(self.image_length())) {
            let rows = framed.chunks_exact_mut(framed_row).skip(self.top).zip(image.chunks_exact(self.row));
            for (framed, row) in rows {
                framed[self.left * self.channels..][..self.row].copy_from_slice(row);
            }
        }
        buffer
    }
}

/// Neighbouring elements of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Distance of the first from the pixel's start.
    pub(super) offset: usize,
    pub(super) length: usize,
}

/// The walk over one image.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    pub(super) frame: Frame,
    /// Where the patch of each pixel starts in the framed image.
    pub(super) starts: Vec<usize>,
    /// Where each pixel lies in the result.
    pub(super) targets: Vec<usize>,
    pub(super) runs: Vec<Run>,
    /// Taps of the kernel, in the order of the patch: each is `channels` elements of it.
    pub(super) taps: Vec<usize>,
}

impl Walk {
    /// Elements of a patch.
    pub(super) fn depth(&self) -> usize {
        self.runs.iter().map(|run| run.length).sum()
    }

    /// The walk over the inputs that gives the outputs.
    pub(super) fn forward(geometry: &Geometry) -> Self {
        let Geometry { height, width, channels, kernel, stride, padding, out_height, out_width, outputs } = *geometry;
        let frame = Frame {
            height,
            row: width * channels,
            channels,
            top: padding,
            left: padding,
            framed_height: height + 2 * padding,
            framed_width: width + 2 * padding,
        };
        let pixels = (0..out_height).flat_map(|row| (0..out_width).map(move |column| (row, column)));
        let starts = pixels.map(|(row, column)| (row * frame.framed_width + column) * stride * channels).collect();
        let targets = (0..out_height * out_width).map(|pixel| pixel * outputs).collect();
        let run = |row: usize| Run { offset: row * frame.framed_width * channels, length: kernel * channels };
        Self { frame, starts, targets, runs: (0..kernel).map(run).collect(), taps: (0..kernel * kernel).collect() }
    }

    /// The walks over the gradient of the outputs that give the gradient of the inputs, which stays zero elsewhere.
    pub(super) fn backward(geometry: &Geometry) -> Vec<Self> {
        let Geometry { height, width, out_height, out_width, outputs, stride, .. } = *geometry;
        let rows: Vec<Axis> = (0..stride).filter_map(|remainder| Axis::new(geometry, remainder, height)).collect();
        let columns: Vec<Axis> = (0..stride).filter_map(|remainder| Axis::new(geometry, remainder, width)).collect();
        let (top, bottom) = Axis::frame(&rows, out_height);
        let (left, right) = Axis::frame(&columns, out_width);
        let frame = Frame {
            height: out_height,
            row: out_width * outputs,
            channels: outputs,
            top,
            left,
            framed_height: top + out_height + bottom,
            framed_width: left + out_width + right,
        };
        let pairs = rows.iter().flat_map(|rows| columns.iter().map(move |columns| (rows, columns)));
        pairs.map(|(rows, columns)| Self::class(geometry, frame, rows, columns)).collect()
    }

    /// The walk for the input pixels of one remainder of row and column.
    fn class(geometry: &Geometry, frame: Frame, rows: &Axis, columns: &Axis) -> Self {
        let (outputs, stride) = (geometry.outputs, geometry.stride);
        let (top, left) = (frame.top as isize + rows.first, frame.left as isize + columns.first);
        let corner = |row: usize, column: usize| {
            let (row, column) = (top + row as isize, left + column as isize);
            (row as usize * frame.framed_width + column as usize) * outputs
        };
        let pixels = (0..rows.count).flat_map(|row| (0..columns.count).map(move |column| (row, column)));
        let starts = pixels.clone().map(|(row, column)| corner(row, column)).collect();
        let targets = pixels.map(|(row, column)| {
            let (row, column) = (row * stride + rows.remainder, column * stride + columns.remainder);
            (row * geometry.width + column) * geometry.channels
        });
        let run = |tap: usize| Run { offset: tap * frame.framed_width * outputs, length: columns.taps.len() * outputs };
        let taps =
            rows.taps.iter().flat_map(|row| columns.taps.iter().map(move |column| row * geometry.kernel + column));
        Self {
            frame,
            starts,
            targets: targets.collect(),
            runs: (0..rows.taps.len()).map(run).collect(),
            taps: taps.collect(),
        }
    }
}

/// The input pixels `remainder + stride · j` along one axis, and the kernel's taps that reach them.
struct Axis {
    remainder: usize,
    /// Number of pixels.
    count: usize,
    /// Taps, last first: the output pixels they come from then follow one another.
    taps: Vec<usize>,
    /// The output pixel that the first of these taps comes from at `j = 0`; it may lie outside.
    first: isize,
}

impl Axis {
    /// None where there are no such pixels, or no tap reaches them.
    fn new(geometry: &Geometry, remainder: usize, length: usize) -> Option<Self> {
        let Geometry { kernel, stride, padding, .. } = *geometry;
        let count = length.saturating_sub(remainder).div_ceil(stride);
        let lowest = (remainder + padding) % stride;
        let mut taps: Vec<usize> = (lowest..kernel).step_by(stride).collect();
        taps.reverse();
        let highest = *taps.first()?;
        let first = (remainder + padding) as isize - highest as isize;
        (count > 0).then_some(Self { remainder, count, taps, first: first / stride as isize })
    }

    /// Zeros needed before and behind the output pixels so that every walk stays inside.
    fn frame(axes: &[Self], length: usize) -> (usize, usize) {
        let before = axes.iter().map(|axis| -axis.first).max().unwrap_or(0).max(0);
        let end = axes.iter().map(|axis| axis.first + (axis.count + axis.taps.len() - 1) as isize);
        let behind = (end.max().unwrap_or(0) - length as isize).max(0);
        (before as usize, behind as usize)
    }
}
