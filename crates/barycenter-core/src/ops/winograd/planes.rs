//! Where transformed numbers lie: tiles as they are written and read, kernels as they are multiplied.

use super::super::registers::{LANES, Line};

/// Products of a tile: it is 4 pixels wide and high once transformed.
pub(super) const PLANES: usize = 16;

/// 16 channels of a transformed tile, row by row. Tiles would share a few lines of the cache if they were a power of two
/// apart, hence one more.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Tile {
    pub(super) planes: [Line; PLANES],
    apart: Line,
}

/// [channels / 16, tiles] tiles of 16 channels.
#[derive(Debug)]
pub(super) struct Tiles {
    tiles: Vec<Tile>,
    /// Tiles there is room for in a group of channels.
    pub(super) room: usize,
}

impl Tiles {
    pub(super) fn new(channels: usize, room: usize) -> Self {
        let zero = Tile { planes: [Line::ZERO; PLANES], apart: Line::ZERO };
        Self { tiles: vec![zero; channels / LANES * room], room }
    }

    /// The tiles of a group of channels.
    pub(super) fn group(&self, group: usize) -> &[Tile] {
        &self.tiles[group * self.room..][..self.room]
    }

    /// As [`group`](Self::group), to be written.
    pub(super) fn group_mut(&mut self, group: usize) -> &mut [Tile] {
        &mut self.tiles[group * self.room..][..self.room]
    }
}

/// [16, outputs / 16, channels] lines of 16 outputs: the transformed kernel or its gradient.
#[derive(Debug)]
pub(super) struct Kernel {
    lines: Vec<Line>,
    pub(super) channels: usize,
    /// Groups of 16 outputs.
    pub(super) groups: usize,
    /// Lines from one plane to the next: odd, for the reason that sets [`Tile`]s apart.
    stride: usize,
}

impl Kernel {
    pub(super) fn new(channels: usize, outputs: usize) -> Self {
        let groups = outputs / LANES;
        let stride = (groups * channels) | 1;
        Self { lines: vec![Line::ZERO; PLANES * stride], channels, groups, stride }
    }

    /// The lines of all channels in one plane and group.
    pub(super) fn group(&self, plane: usize, group: usize) -> &[Line] {
        &self.lines[plane * self.stride + group * self.channels..][..self.channels]
    }

    /// As [`group`](Self::group), 16 channels at a time.
    pub(super) fn blocks(&self, plane: usize, group: usize) -> &[[Line; LANES]] {
        self.group(plane, group).as_chunks().0
    }

    /// As [`group`](Self::group), to be written.
    pub(super) fn group_mut(&mut self, plane: usize, group: usize) -> &mut [Line] {
        &mut self.lines[plane * self.stride + group * self.channels..][..self.channels]
    }

    /// The 16 lines of a channel and group.
    pub(super) fn across(&self, channel: usize, group: usize) -> [Line; PLANES] {
        std::array::from_fn(|plane| self.group(plane, group)[channel])
    }
}
