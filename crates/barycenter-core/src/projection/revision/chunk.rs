//! A chunk of columns of a tensor that is revised: the centre moves, those that come are coded, those that stay are copied, and all
//! are projected on the way that the centre went, while they lie in the near caches.

#![expect(clippy::inline_always, reason = "a copy for each processor is made by inlining the code into it")]

use std::{mem::MaybeUninit, ops::Range};

use super::{Found, Places};
use crate::{
    Error, Result,
    checkpoint::CheckpointFile,
    processor::{Processor, for_processor},
    projection::{
        GROUP,
        build::Sums,
        codec::{Ahead, BATCH, Batch, Group, code_groups},
        kernels::{CHUNK, Packed, project_chunk},
        packing::code_bytes,
    },
};

/// Tiles that are held at a time.
const STRIP_TILES: usize = 4;

/// Columns that are held at a time.
const STRIP: usize = STRIP_TILES * GROUP;

/// Numbers that are summed beside each other.
const LANES: usize = 16;

/// A tensor before it is revised.
pub(super) struct Old<'a> {
    pub name: &'a str,
    pub bits: u8,
    pub anchor: &'a [f32],
    /// Whether it was never revised before: its centre is the anchor.
    pub is_first: bool,
    /// Candidates before.
    pub n: usize,
    pub places: &'a Places<'a>,
    /// The first of the tiles that were taken.
    pub first: usize,
    /// Codes and scales of those tiles: their places are needed for others.
    pub codes: Vec<u8>,
    pub scales: Vec<f32>,
}

/// What one task fills: some columns of the revised tensor.
pub(super) struct Part<'a> {
    /// What it was before, unless that was the anchor.
    pub centre: &'a mut [f32],
    pub codes: &'a mut [u8],
    pub scales: &'a mut [f32],
}

impl Old<'_> {
    /// Takes the tiles that are revised next.
    pub fn take(&mut self, tiles: Range<usize>, codes: &[u8], scales: &[f32]) {
        let groups = tiles.start * self.n..tiles.end * self.n;
        let bytes = code_bytes(self.bits);
        self.first = tiles.start;
        self.codes.clear();
        self.codes.extend_from_slice(&codes[groups.start * bytes..groups.end * bytes]);
        self.scales.clear();
        self.scales.extend_from_slice(scales.get(groups).unwrap_or_default());
    }

    /// Fills one chunk of columns, of which the tiles were taken.
    pub fn revise(&self, chunk: usize, batch: &mut Batch, part: &mut Part<'_>) -> Result<Found> {
        let (processor, rows) = (Processor::detected(), self.places.rows);
        let tile_bytes = rows * code_bytes(self.bits);
        let mut going = Rows::of(self.places.dropped.iter().copied(), self.name)?;
        let mut coming = Rows::of(self.places.added.iter().map(|(_, file)| *file), self.name)?;
        let (codes, sums) = (vec![0; BATCH * code_bytes(self.bits)], vec![Sums::default(); self.places.added.len()]);
        let mut coder = Coder { processor, batch, codes, sums };
        let mut columns = Columns::NOTHING;
        let mut ways = vec![0.0; part.centre.len()];
        for (strip, (centre, way)) in part.centre.chunks_mut(STRIP).zip(ways.chunks_mut(STRIP)).enumerate() {
            let (first, len) = (chunk * CHUNK + strip * STRIP, centre.len());
            let change = Change {
                going: going.columns(self.name, first, len)?,
                coming: coming.columns(self.name, first, len)?,
                counts: [self.n as f64, rows as f64],
            };
            columns.fill(if self.is_first { None } else { Some(centre) }, &self.anchor[first..][..len]);
            move_centre(processor, &mut columns, &change);
            centre.copy_from_slice(&columns.centre[..len]);
            way.copy_from_slice(&columns.way[..len]);
            let tile = strip * STRIP_TILES;
            let scales = part.scales.get_mut(tile * rows..).unwrap_or_default();
            let mut coded = Coded { codes: &mut part.codes[tile * tile_bytes..], scales, len };
            self.stay(first / GROUP, &mut coded);
            self.come(&change.coming, &columns.anchor, &mut coder, &mut coded);
        }
        if let Some(added) = coder.sums.iter().position(|sums| !sums.square.is_finite()) {
            let (name, i) = (self.name, self.places.added[added].0);
            let what = format!(
                "tensor `{name}` of candidate {i} (from 0) is not finite in 32 bits, or too far from the others"
            );
            return Err(Error::input(what));
        }
        let packed = Packed { n: rows, bits: self.bits, codes: part.codes, scales: part.scales };
        let products = project_chunk(processor, &packed, &ways);
        Ok(Found { sums: coder.sums, products, moved: columns.moved.iter().sum() })
    }

    /// Copies the codes of the candidates that stay; `first` is the first tile.
    fn stay(&self, first: usize, coded: &mut Coded<'_>) {
        let (bytes, rows) = (code_bytes(self.bits), self.places.rows);
        for tile in 0..coded.len.div_ceil(GROUP) {
            for (run, position) in &self.places.staying {
                let (from, to, count) =
                    ((first - self.first + tile) * self.n + position, tile * rows + run.start, run.len());
                let codes = &self.codes[from * bytes..][..count * bytes];
                coded.codes[to * bytes..][..count * bytes].copy_from_slice(codes);
                if self.bits != 32 {
                    coded.scales[to..][..count].copy_from_slice(&self.scales[from..][..count]);
                }
            }
        }
    }

    /// Codes the candidates that come.
    fn come(&self, coming: &[&[f32; STRIP]], anchor: &[f32; STRIP], coder: &mut Coder<'_>, coded: &mut Coded<'_>) {
        let (bytes, rows) = (code_bytes(self.bits), self.places.rows);
        let tiles = coded.len.div_ceil(GROUP);
        let all: Vec<(usize, usize)> =
            (0..coming.len()).flat_map(|added| (0..tiles).map(move |tile| (added, tile))).collect();
        let soon: Vec<&[f32]> = coming.iter().map(|row| row.as_slice()).collect();
        let mut ahead = Ahead::behind(&soon);
        for places in all.chunks(BATCH) {
            let mut groups = [Group { values: &[0.0; GROUP], centre: &[0.0; GROUP], len: 0 }; BATCH];
            for ((added, tile), group) in places.iter().zip(&mut groups) {
                let values = &coming[*added].as_chunks().0[*tile];
                let len = (coded.len - tile * GROUP).min(GROUP);
                *group = Group { values, centre: &anchor.as_chunks().0[*tile], len };
            }
            let codes = &mut coder.codes[..places.len() * bytes];
            #[expect(unsafe_code, reason = "bytes that are there, seen as room for others")]
            // SAFETY: nothing but codes is written, so that every byte stays one that is there.
            let room = unsafe { &mut *(std::ptr::from_mut(codes) as *mut [MaybeUninit<u8>]) };
            code_groups(coder.processor, self.bits, coder.batch, &groups[..places.len()], room, (false, &mut ahead));
            for (((added, tile), of_group), codes) in places.iter().zip(&coder.batch.coded).zip(codes.chunks(bytes)) {
                let place = tile * rows + self.places.added[*added].0;
                coded.codes[place * bytes..][..bytes].copy_from_slice(codes);
                if self.bits != 32 {
                    coded.scales[place] = of_group.scale;
                }
                coder.sums[*added].add(Sums { square: of_group.square, explained: of_group.explained });
            }
        }
    }
}

/// What candidates that come are coded with.
struct Coder<'a> {
    processor: Processor,
    batch: &'a mut Batch,
    /// Of a batch, before they go to their places.
    codes: Vec<u8>,
    /// Of each candidate.
    sums: Vec<Sums>,
}

/// The codes of a strip.
struct Coded<'a> {
    codes: &'a mut [u8],
    scales: &'a mut [f32],
    /// Columns of the strip.
    len: usize,
}

/// Candidates whose columns are read strip by strip.
struct Rows<'a> {
    files: Vec<&'a CheckpointFile>,
    /// Where they lie as they are needed.
    stored: Vec<Option<&'a [f32]>>,
    copies: Vec<[f32; STRIP]>,
}

impl<'a> Rows<'a> {
    fn of(files: impl Iterator<Item = &'a CheckpointFile>, name: &str) -> Result<Self> {
        let files: Vec<_> = files.collect();
        let stored = files.iter().map(|file| file.as_f32(name)).collect::<Result<_>>()?;
        let copies = vec![[0.0; STRIP]; files.len()];
        Ok(Self { files, stored, copies })
    }

    /// So many columns of each, zeros behind them.
    fn columns(&mut self, name: &str, first: usize, len: usize) -> Result<Vec<&[f32; STRIP]>> {
        let rows = self.files.iter().zip(&self.stored).zip(&mut self.copies);
        rows.map(|((file, stored), copy)| {
            if let Some(whole) = stored.and_then(|stored| stored[first..].first_chunk()) {
                return Ok(whole);
            }
            copy[len..].fill(0.0);
            file.fill_f32(name, first, &mut copy[..len])?;
            Ok(&*copy)
        })
        .collect()
    }
}

/// Columns that are revised.
struct Columns {
    centre: [f32; STRIP],
    anchor: [f32; STRIP],
    /// From the anchor to the centre.
    way: [f32; STRIP],
    /// n · c.
    totals: [f64; STRIP],
    /// `‖c − a‖²`, in parts.
    moved: [f64; LANES],
}

impl Columns {
    const NOTHING: Self = Self {
        centre: [0.0; STRIP],
        anchor: [0.0; STRIP],
        way: [0.0; STRIP],
        totals: [0.0; STRIP],
        moved: [0.0; LANES],
    };

    /// Takes columns of a centre, which is the anchor unless it is given; zeros behind them.
    fn fill(&mut self, centre: Option<&[f32]>, anchor: &[f32]) {
        for (into, from) in [(&mut self.centre, centre.unwrap_or(anchor)), (&mut self.anchor, anchor)] {
            into[..from.len()].copy_from_slice(from);
            into[from.len()..].fill(0.0);
        }
    }
}

/// Candidates that change the mean of some columns.
struct Change<'a> {
    going: Vec<&'a [f32; STRIP]>,
    coming: Vec<&'a [f32; STRIP]>,
    /// Candidates before and after.
    counts: [f64; 2],
}

fn move_centre(processor: Processor, columns: &mut Columns, change: &Change<'_>) {
    for_processor!(processor, move_columns, (columns: &mut Columns, change: &Change<'_>));
}

/// The mean of those that stay and come, by what came and went.
#[inline(always)]
fn move_columns(columns: &mut Columns, change: &Change<'_>) {
    let [before, after] = change.counts;
    let totals = &mut columns.totals;
    // Candidate by candidate: the totals stay in the nearest cache, and every loop is one that vectorises.
    for (total, c) in totals.iter_mut().zip(&columns.centre) {
        *total = f64::from(*c) * before;
    }
    for row in &change.going {
        for (total, value) in totals.iter_mut().zip(*row) {
            *total -= f64::from(*value);
        }
    }
    for row in &change.coming {
        for (total, value) in totals.iter_mut().zip(*row) {
            *total += f64::from(*value);
        }
    }
    for (c, total) in columns.centre.iter_mut().zip(totals) {
        *c = (*total / after) as f32;
    }
    for ((way, c), a) in columns.way.iter_mut().zip(&columns.centre).zip(&columns.anchor) {
        *way = c - a;
    }
    for ways in columns.way.as_chunks::<LANES>().0 {
        for (moved, way) in columns.moved.iter_mut().zip(ways) {
            *moved += f64::from(*way) * f64::from(*way);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_centre_moves_to_the_same_bits_on_every_processor() {
        let mut state = 7_u32;
        let mut columns = || {
            std::array::from_fn::<f32, STRIP, _>(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 24) as f32 - 0.5
            })
        };
        let rows: [_; 5] = std::array::from_fn(|_| columns());
        let (centre, anchor) = (columns(), columns());
        let change = Change { going: vec![&rows[0]], coming: rows[1..].iter().collect(), counts: [7.0, 10.0] };
        let on = |processor| {
            let mut columns = Columns::NOTHING;
            columns.fill(Some(&centre), &anchor);
            move_centre(processor, &mut columns, &change);
            (columns.centre, columns.way, columns.moved.map(f64::to_bits))
        };
        let portable = on(Processor::Portable);
        for (e, c) in portable.0.iter().enumerate() {
            let sum = 7.0 * f64::from(centre[e]) - f64::from(rows[0][e])
                + rows[1..].iter().map(|row| f64::from(row[e])).sum::<f64>();
            assert!((f64::from(*c) - sum / 10.0).abs() < 1e-7);
        }
        for processor in Processor::available() {
            assert_eq!(on(processor), portable, "{processor:?}");
        }
    }
}
