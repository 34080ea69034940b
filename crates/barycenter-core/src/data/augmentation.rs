//! Random crop and flip of images.

use super::Draws;

const AUGMENT: u64 = 0xa063;

/// Random crop after padding, and random mirror image.
///
/// As `torchvision`'s `RandomCrop(size, padding=pad)` and `RandomHorizontalFlip()` do in the usual pipeline, the padding is
/// put round the *stored* image: its pixels are stored zeros (black) and are normalised like any other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Augmentation {
    /// Pixels of padding on each side before a crop to the original size.
    pub pad: usize,
    /// Whether every second image (at random) is mirrored left to right.
    pub flip: bool,
}

/// What the draws of an epoch belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch {
    /// Seed of the job.
    pub seed: u64,
    /// Number of the epoch.
    pub number: u64,
}

/// One crop: the output pixel (y, x) is the stored pixel (y + down, x + right), of the mirror image where flipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Crop {
    pub(super) down: isize,
    pub(super) right: isize,
    pub(super) flipped: bool,
}

impl Augmentation {
    /// The crop of one sample in one epoch.
    pub(super) fn crop(self, epoch: Epoch, sample: usize) -> Crop {
        let mut draws = Draws::keyed(&[epoch.seed, AUGMENT, epoch.number, sample as u64]);
        let mut shift = || draws.below(2 * self.pad + 1) as isize - self.pad as isize;
        let (down, right) = (shift(), shift());
        Crop { down, right, flipped: self.flip && draws.bits() >> 63 == 1 }
    }
}

impl Crop {
    /// Stored row and column of an output pixel, where it lies inside the image.
    pub(super) fn source(self, row: usize, column: usize, height: usize, width: usize) -> Option<(usize, usize)> {
        let column = if self.flipped { width - 1 - column } else { column };
        let row = row.checked_add_signed(self.down).filter(|row| *row < height)?;
        let column = column.checked_add_signed(self.right).filter(|column| *column < width)?;
        Some((row, column))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crop_is_a_function_of_seed_epoch_and_sample() {
        let augmentation = Augmentation { pad: 4, flip: true };
        let crops = |seed, number| -> Vec<Crop> {
            (0..64).map(|sample| augmentation.crop(Epoch { seed, number }, sample)).collect()
        };
        assert_eq!(crops(1, 2), crops(1, 2));
        assert_ne!(crops(1, 2), crops(1, 3));
        assert_ne!(crops(1, 2), crops(2, 2));
        assert!(crops(1, 2).iter().all(|crop| crop.down.abs() <= 4 && crop.right.abs() <= 4));
        assert!(crops(1, 2).iter().any(|crop| crop.flipped) && crops(1, 2).iter().any(|crop| !crop.flipped));
    }

    #[test]
    fn a_flipped_crop_is_the_mirror_of_the_crop() {
        let crop = Crop { down: 1, right: -2, flipped: false };
        let mirrored = Crop { flipped: true, ..crop };
        for column in 0..8 {
            assert_eq!(crop.source(3, column, 8, 8), mirrored.source(3, 7 - column, 8, 8));
        }
        assert_eq!(crop.source(7, 4, 8, 8), None);
        assert_eq!(crop.source(0, 1, 8, 8), None);
        assert_eq!(crop.source(0, 2, 8, 8), Some((1, 0)));
    }
}
