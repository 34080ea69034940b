//! The 16 products of every tile, kept apart.

use super::super::registers::{LANES, Line};

/// Products of a tile: it is 4 pixels wide and high once transformed.
pub(super) const PLANES: usize = 16;

/// [16, channels / 16, tiles] lines of 16 channels: what is read or written together lies together.
#[derive(Debug)]
pub(super) struct Planes {
    lines: Vec<Line>,
    /// Groups of 16 channels.
    groups: usize,
    /// Tiles there is room for.
    tiles: usize,
    /// Lines from one plane to the next; odd, since planes at distances of a power of two would share a few lines of the cache.
    stride: usize,
}

impl Planes {
    pub(super) fn new(channels: usize, tiles: usize) -> Self {
        let groups = channels / LANES;
        let stride = (groups * tiles) | 1;
        Self { lines: vec![Line::ZERO; PLANES * stride], groups, tiles, stride }
    }

    /// The lines of one plane: groups of 16 channels of [`tiles`](Self::tiles) tiles each.
    pub(super) fn plane(&self, plane: usize) -> &[Line] {
        &self.lines[plane * self.stride..][..self.groups * self.tiles]
    }

    pub(super) fn plane_mut(&mut self, plane: usize) -> &mut [Line] {
        &mut self.lines[plane * self.stride..][..self.groups * self.tiles]
    }

    /// Groups of 16 channels.
    pub(super) fn groups(&self) -> usize {
        self.groups
    }

    /// Tiles there is room for.
    pub(super) fn tiles(&self) -> usize {
        self.tiles
    }

    /// The lines of the same channels and tile in all planes.
    pub(super) fn across(&self, group: usize, tile: usize) -> Across<'_> {
        Across { lines: &self.lines[group * self.tiles + tile..], stride: self.stride }
    }

    /// As [`across`](Self::across), to be written.
    pub(super) fn across_mut(&mut self, group: usize, tile: usize) -> AcrossMut<'_> {
        AcrossMut { lines: &mut self.lines[group * self.tiles + tile..], stride: self.stride }
    }
}

/// See [`Planes::across`].
pub(super) struct Across<'a> {
    lines: &'a [Line],
    stride: usize,
}

impl Across<'_> {
    #[inline]
    pub(super) fn at(&self, row: usize, column: usize) -> &[f32; LANES] {
        &self.lines[(4 * row + column) * self.stride].0
    }
}

/// See [`Planes::across_mut`].
pub(super) struct AcrossMut<'a> {
    lines: &'a mut [Line],
    stride: usize,
}

impl AcrossMut<'_> {
    #[inline]
    pub(super) fn at(&mut self, row: usize, column: usize) -> &mut [f32; LANES] {
        &mut self.lines[(4 * row + column) * self.stride].0
    }
}
