//! A projection as a file, for the caches of workers and server.
//!
//! Little-endian, in this order:
//!
//! | field | bytes |
//! | --- | --- |
//! | magic `BARYPROJ` | 8 |
//! | version of the codec, bits, how often it was revised | 4 + 4 + 4 |
//! | n, L, number of tensors T | 8 + 8 + 8 |
//! | per tensor: length of its name, name, elements, block | 8 + … + 8 + 8 |
//! | norms `r`, then kept parts `κ`, f64, (n, L) | 16 · n · L |
//! | if revised: lengths from the anchor, f64, (n, L) | 8 · n · L |
//! | per tensor: centre (f32), if revised anchor (f32), scales (f32, tile by tile), codes (tile by tile) | 4 · D + … |
//! | BLAKE3 digest of everything before it | 32 |

use std::{
    fs::{self, File},
    io::{BufReader, BufWriter, Read, Write},
    path::Path,
};

use super::{CODEC_VERSION, GROUP, Projection, Tensor, build::check_bits, packing::code_bytes, stored_bits};
use crate::{Error, Result, memory::zeros};

const MAGIC: &[u8; 8] = b"BARYPROJ";

/// Bytes of the digest at the end.
const DIGEST: u64 = 32;

/// Bytes read or written at once: they are hashed while they lie in the near caches.
const PIECE: usize = 1 << 18;

/// Bytes of a file that tell what it is.
const HEAD: usize = 12;

/// Whether a file that begins with these bytes is a projection that this version reads; at least 12 of them are looked at.
pub fn is_projection(first: &[u8]) -> bool {
    let version = CODEC_VERSION.to_le_bytes();
    first.len() >= HEAD && first.starts_with(MAGIC) && first[MAGIC.len()..].starts_with(&version)
}

impl Projection {
    /// Writes the projection; whatever dies, the file appears whole or not at all, and its digest tells what a power cut did to it.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.save_in_pieces(path, &mut |_, _| Ok(()))
    }

    /// The same. `on_piece` is called with (bytes written, bytes that the projection holds) after each quarter of a megabyte or less,
    /// and may end the writing with an error: no file is left then.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be written; what `on_piece` returns.
    pub fn save_in_pieces(
        &self,
        path: impl AsRef<Path>,
        on_piece: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<()> {
        let path = path.as_ref();
        let partial = path.with_extension(format!("partial-{}", std::process::id()));
        let written = self.write_to(&partial, on_piece);
        let written = written.and_then(|()| fs::rename(&partial, path).map_err(|e| Error::io(path, e)));
        if written.is_err() {
            // The first failure is the one worth telling; what is left of the file is of no use.
            let _ = fs::remove_file(&partial);
        }
        written
    }

    fn write_to(&self, path: &Path, on_piece: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<()> {
        let failed = |e| Error::io(path, e);
        let file = File::create(path).map_err(failed)?;
        let mut out = Hashing { inner: BufWriter::new(file), hasher: blake3::Hasher::new() };
        self.write_header(&mut out).map_err(failed)?;
        let mut bytes = Vec::new();
        for tensor in &self.tensors {
            for values in [&tensor.centre, &tensor.anchor, &tensor.scales] {
                for values in values.chunks(PIECE / 4) {
                    out.write_all(little_endian(values, &mut bytes)).map_err(failed)?;
                    on_piece(out.hasher.count(), self.held_bytes())?;
                }
            }
            for codes in tensor.codes.chunks(PIECE) {
                out.write_all(codes).map_err(failed)?;
                on_piece(out.hasher.count(), self.held_bytes())?;
            }
        }
        let digest = out.hasher.finalize();
        // Not synced: a file that a power cut tore is found by its digest and made again, sooner than the disk takes each.
        out.inner.write_all(digest.as_bytes()).and_then(|()| out.inner.flush()).map_err(failed)
    }

    /// Everything before the first tensor's numbers.
    fn write_header(&self, out: &mut impl Write) -> std::io::Result<()> {
        out.write_all(MAGIC)?;
        out.write_all(&CODEC_VERSION.to_le_bytes())?;
        out.write_all(&u32::from(self.bits).to_le_bytes())?;
        out.write_all(&self.revisions.to_le_bytes())?;
        for count in [self.n, self.block_count, self.tensors.len()] {
            out.write_all(&(count as u64).to_le_bytes())?;
        }
        for tensor in &self.tensors {
            out.write_all(&(tensor.name.len() as u64).to_le_bytes())?;
            out.write_all(tensor.name.as_bytes())?;
            out.write_all(&(tensor.centre.len() as u64).to_le_bytes())?;
            out.write_all(&(tensor.block as u64).to_le_bytes())?;
        }
        for number in self.norms.iter().chain(&self.kept).chain(self.lengths.iter().flatten()) {
            out.write_all(&number.to_le_bytes())?;
        }
        Ok(())
    }

    /// Reads what [`Projection::save`] wrote and verifies it.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read, [`Error::Corrupt`] where it is not a projection of this version, has
    /// the wrong size or does not match its digest.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::read_from(path).map_err(|e| match e {
            Fault::Io(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                Error::corrupt(format!("{}: the file is truncated", path.display()))
            }
            Fault::Io(e) => Error::io(path, e),
            Fault::Wrong(what) => Error::corrupt(format!("{}: {what}", path.display())),
        })
    }

    fn read_from(path: &Path) -> Result<Self, Fault> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut source = Hashing { inner: BufReader::new(file), hasher: blake3::Hasher::new() };
        let (mut projection, sizes) = read_header(&mut source, size)?;
        for (tensor, elements) in projection.tensors.iter_mut().zip(sizes) {
            let tiles = elements.div_ceil(GROUP) * projection.n;
            tensor.centre = read_f32(&mut source, elements)?;
            tensor.anchor = read_f32(&mut source, if projection.lengths.is_some() { elements } else { 0 })?;
            tensor.scales = read_f32(&mut source, if tensor.bits == 32 { 0 } else { tiles })?;
            tensor.codes = zeros(tiles * code_bytes(tensor.bits));
            read_pieces(&mut source, &mut tensor.codes)?;
        }
        let computed = source.hasher.finalize();
        let mut stored = [0; DIGEST as usize];
        source.inner.read_exact(&mut stored)?;
        if computed != blake3::Hash::from_bytes(stored) {
            return Err(Fault::Wrong("the file does not match its digest"));
        }
        Ok(projection)
    }
}

/// Reads up to the kept parts and checks that the file has exactly the size that follows, so that nothing larger than the file
/// is ever allocated. Returns the tensors, still empty, and their elements.
fn read_header(source: &mut impl Read, size: u64) -> Result<(Projection, Vec<usize>), Fault> {
    if &read::<8>(source)? != MAGIC {
        return Err(Fault::Wrong("not a projection"));
    }
    if u32::from_le_bytes(read(source)?) != CODEC_VERSION {
        return Err(Fault::Wrong("a projection of another version"));
    }
    let bits = u8::try_from(u32::from_le_bytes(read(source)?)).unwrap_or(0);
    check_bits(bits).map_err(|_| Fault::Wrong("its number of bits is not one of 1, 2, 4, 8, 32"))?;
    let revisions = u32::from_le_bytes(read(source)?);
    let is_revised = revisions > 0;
    let mut left = size.saturating_sub(8 + 12 + 24 + DIGEST);
    let (n, block_count) = (read_count(source, left)?, read_count(source, left)?);
    let tensor_count = read_count(source, left)?;
    let mut tensors = Vec::new();
    let mut sizes = Vec::new();
    for _ in 0..tensor_count {
        let mut name = vec![0; read_count(source, left)?];
        source.read_exact(&mut name)?;
        let (elements, block) = (read_count(source, left)?, read_count(source, left)?);
        if block >= block_count {
            return Err(Fault::Wrong("a tensor is in a block that is not there"));
        }
        left = left.checked_sub(24 + name.len() as u64).ok_or(SIZE)?;
        let name = String::from_utf8(name).map_err(|_| Fault::Wrong("a name is not text"))?;
        sizes.push(elements);
        let bits = stored_bits(elements, bits);
        let (centre, anchor, scales, codes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        tensors.push(Tensor { name, block, bits, centre, anchor, scales, codes });
    }
    let (of_entry, of_element) = if is_revised { (24, 8) } else { (16, 4) };
    let matrices =
        (n as u64).checked_mul(block_count as u64).and_then(|entries| entries.checked_mul(of_entry)).ok_or(SIZE)?;
    let bytes = sizes.iter().try_fold(matrices, |sum, elements| {
        let bits = stored_bits(*elements, bits);
        let tile = code_bytes(bits) as u64 + if bits == 32 { 0 } else { 4 };
        let tiles = (elements.div_ceil(GROUP) as u64).checked_mul(n as u64)?.checked_mul(tile)?;
        sum.checked_add(tiles)?.checked_add((*elements as u64).checked_mul(of_element)?)
    });
    if bytes != Some(left) {
        return Err(SIZE);
    }
    let mut matrix =
        || (0..n * block_count).map(|_| Ok(f64::from_le_bytes(read(source)?))).collect::<Result<_, Fault>>();
    let (norms, kept) = (matrix()?, matrix()?);
    let lengths = if is_revised { Some(matrix()?) } else { None };
    Ok((Projection { n, bits, block_count, norms, kept, lengths, revisions, tensors }, sizes))
}

/// What is wrong with a file.
enum Fault {
    Io(std::io::Error),
    Wrong(&'static str),
}

const SIZE: Fault = Fault::Wrong("the file has not the size that its header asks for");

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

fn read<const N: usize>(source: &mut impl Read) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    source.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A count of things that take at least a byte each in what is left of the file.
fn read_count(source: &mut impl Read, left: u64) -> Result<usize, Fault> {
    let count = u64::from_le_bytes(read(source)?);
    if count > left { Err(SIZE) } else { usize::try_from(count).map_err(|_| SIZE) }
}

fn read_f32(source: &mut impl Read, count: usize) -> std::io::Result<Vec<f32>> {
    let mut values: Vec<f32> = zeros(count);
    read_pieces(source, bytemuck::cast_slice_mut(&mut values))?;
    if cfg!(target_endian = "big") {
        for value in &mut values {
            *value = f32::from_bits(value.to_bits().swap_bytes());
        }
    }
    Ok(values)
}

fn read_pieces(source: &mut impl Read, into: &mut [u8]) -> std::io::Result<()> {
    into.chunks_mut(PIECE).try_for_each(|piece| source.read_exact(piece))
}

/// Numbers as a file has them; where this machine orders bytes otherwise, in `room`.
fn little_endian<'a>(values: &'a [f32], room: &'a mut Vec<u8>) -> &'a [u8] {
    if cfg!(target_endian = "little") {
        return bytemuck::cast_slice(values);
    }
    room.clear();
    room.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    room
}

/// Hashes what passes through.
struct Hashing<I> {
    inner: I,
    hasher: blake3::Hasher,
}

impl<I: Read> Read for Hashing<I> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(into)?;
        self.hasher.update(&into[..count]);
        Ok(count)
    }
}

impl<I: Write> Write for Hashing<I> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
