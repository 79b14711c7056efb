//! The header of a WAV file: its chunks up to the samples.

use std::io::{self, BufRead, Read};
use std::path::Path;

use gatewise::{Error, Result};
use hound::{SampleFormat, WavReader, WavSpec};

use super::{CODECS, SOURCE_RATES, format_error};

/// The length of the longest format chunk in use, `WAVE_FORMAT_EXTENSIBLE`, in bytes.
const LONGEST_FORMAT: u32 = 40;
const EXTENSIBLE: [u8; 2] = 0xfffe_u16.to_le_bytes();

/// The layout of a file's samples according to its header.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) spec: WavSpec,
    /// Bytes per frame: one sample of every channel.
    pub(super) frame_bytes: usize,
    /// Bytes of all samples.
    pub(super) data: u64,
    /// The header in the form that `hound` reads, without the length of the data.
    start: Vec<u8>,
}

/// The length of the samples according to a header.
enum StatedLength {
    Bytes(u64),
    /// Unknown: the program wrote into a pipe.
    ToTheEnd,
}

impl Header {
    /// Reads a file of `length` bytes up to its first sample.
    pub(super) fn read(file: &Path, source: &mut impl BufRead, length: u64) -> Result<Self> {
        if source.fill_buf().map_err(|e| Error::io(file, e))?.is_empty() {
            return Err(format_error(file, "header", "a WAV file", "an empty file"));
        }
        let mut chunks = Chunks { file, source, read: 0 };
        let (start, stated) = chunks.until_data()?;
        let there = length.saturating_sub(chunks.read);
        let spec = spec(file, &start)?;
        // The fields of the format begin at byte 20; bytes 32 and 33 are the length of a frame.
        let frame_bytes = usize::from(u16::from_le_bytes([start[32], start[33]]));
        if !frame_bytes.is_multiple_of(spec.channels.into()) {
            let expected = format!("frames of as many bytes for each of {} channels", spec.channels);
            return Err(format_error(file, "header", expected, format!("{frame_bytes} bytes")));
        }
        let frame = frame_bytes as u64;
        let data = match stated {
            // A stream may be cut anywhere, even within a frame.
            StatedLength::ToTheEnd => there / frame * frame,
            StatedLength::Bytes(bytes) if !bytes.is_multiple_of(frame) => {
                let expected = format!("a data chunk of whole frames of {frame} bytes");
                return Err(format_error(file, "header", expected, format!("{bytes} bytes")));
            }
            StatedLength::Bytes(bytes) if bytes > there => {
                let sample = frame / u64::from(spec.channels);
                let found = format!("the end of the file after {}", there / sample);
                return Err(format_error(file, "data", format!("{} samples", bytes / sample), found));
            }
            StatedLength::Bytes(bytes) => bytes,
        };
        if data == 0 {
            return Err(format_error(file, "data", "at least one sample", "none"));
        }
        Ok(Self { spec, frame_bytes, data, start })
    }

    /// The header of a file with only this many bytes of samples.
    pub(super) fn with_samples(&self, bytes: usize) -> Vec<u8> {
        let length = u32::try_from(bytes).unwrap_or(u32::MAX);
        [&self.start[..], &length.to_le_bytes()].concat()
    }
}

/// The chunks of a file.
struct Chunks<'a, R> {
    file: &'a Path,
    source: &'a mut R,
    /// Bytes read so far.
    read: u64,
}

impl<R: BufRead> Chunks<'_, R> {
    /// Reads up to the first sample; returns the signature, the format, and the start of the data chunk.
    ///
    /// The other chunks are left out, because `hound` ignores the padding byte of a chunk of odd length and would misread whatever
    /// follows such a chunk.
    fn until_data(&mut self) -> Result<(Vec<u8>, StatedLength)> {
        let signature: [u8; 12] = self.bytes()?;
        let [.., a, b, c, d, _, _, _, _] = signature;
        let whole = u32::from_le_bytes([a, b, c, d]);
        // RF64 is RIFF with 64-bit sizes in a separate chunk.
        let large = signature.starts_with(b"RF64");
        if !(large || signature.starts_with(b"RIFF")) || !signature.ends_with(b"WAVE") {
            return Err(format_error(self.file, "header", "a WAV file", "no RIFF/WAVE signature"));
        }
        let mut start = [b"RIFF", &signature[4..]].concat();
        let mut size_of_data = None;
        loop {
            let chunk: [u8; 8] = self.bytes()?;
            let [a, b, c, d, length @ ..] = chunk;
            let length = u32::from_le_bytes(length);
            match &[a, b, c, d] {
                b"data" if start.len() == 12 => {
                    return Err(format_error(self.file, "header", "a format before the data", "none"));
                }
                b"data" => {
                    start.extend(b"data");
                    let stated = match size_of_data {
                        Some(bytes) if length == u32::MAX && bytes > 0 => StatedLength::Bytes(bytes),
                        _ => stated_length(length, whole, self.read),
                    };
                    return Ok((start, stated));
                }
                b"fmt " if start.len() > 12 => {
                    return Err(format_error(self.file, "header", "one format", "two"));
                }
                b"fmt " => self.format(chunk, length, &mut start)?,
                b"ds64" if large && length >= 16 => {
                    let [_, _, _, _, _, _, _, _, data @ ..]: [u8; 16] = self.bytes()?;
                    size_of_data = Some(u64::from_le_bytes(data));
                    self.skip(u64::from(length) - 16 + u64::from(length % 2))?;
                }
                _ => self.skip(u64::from(length) + u64::from(length % 2))?,
            }
        }
    }

    /// Reads the format chunk whose header is `chunk`.
    fn format(&mut self, chunk: [u8; 8], length: u32, start: &mut Vec<u8>) -> Result<()> {
        if length > LONGEST_FORMAT {
            let expected = format!("a format of at most {LONGEST_FORMAT} bytes");
            return Err(format_error(self.file, "header", expected, format!("{length} bytes")));
        }
        let mut format = vec![0; length as usize];
        self.fill(&mut format)?;
        self.skip(u64::from(length % 2))?;
        // A sample occupies the upper bits of its container, so the whole container is read as the sample. `hound` would read the lower
        // bits.
        if format.starts_with(&EXTENSIBLE) && format.len() >= 20 && format[18..20] != [0, 0] {
            format.copy_within(14..16, 18);
        }
        start.extend(chunk);
        start.extend(format);
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.read += bytes.len() as u64;
        self.source.read_exact(bytes).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => header_ended(self.file),
            _ => Error::io(self.file, e),
        })
    }

    fn skip(&mut self, bytes: u64) -> Result<()> {
        self.read += bytes;
        let mut rest = (&mut *self.source).take(bytes);
        let skipped = io::copy(&mut rest, &mut io::sink()).map_err(|e| Error::io(self.file, e))?;
        if skipped == bytes { Ok(()) } else { Err(header_ended(self.file)) }
    }
}

/// The length of the samples, from the data chunk's `length`. The chunk's header ends at byte `begin`; the file says that `whole`
/// bytes follow its own header.
///
/// A program that cannot go back to write the length leaves one of these values: the largest number (ffmpeg), the largest signed
/// number (sox, arecord), or 0. A length of 0 counts as unknown only if the file's own header has the largest number, or says that
/// the file ends here.
fn stated_length(length: u32, whole: u32, begin: u64) -> StatedLength {
    /// Programs subtract the header and the last frame from their largest size.
    const ROOM: u32 = 1 << 16;
    const SIGNED: u32 = 1 << 31;
    let greatest = length >= u32::MAX - 255 || (SIGNED - (1 << 12) - ROOM..=SIGNED).contains(&length);
    let unknown = length == 0 && (whole == u32::MAX || u64::from(whole) + 8 <= begin);
    if greatest || unknown { StatedLength::ToTheEnd } else { StatedLength::Bytes(length.into()) }
}

/// The layout that a format chunk describes; refuses layouts that are not read.
fn spec(file: &Path, start: &[u8]) -> Result<WavSpec> {
    let reader = WavReader::new(start.chain(&[0; 4][..])).map_err(|e| refusal(file, start, e))?;
    let spec = reader.spec();
    if !SOURCE_RATES.contains(&spec.sample_rate) {
        let expected = format!("{} to {} Hz", SOURCE_RATES.start(), SOURCE_RATES.end());
        return Err(format_error(file, "sample rate", expected, format!("{} Hz", spec.sample_rate)));
    }
    match (spec.sample_format, spec.bits_per_sample) {
        (SampleFormat::Int, 8 | 16 | 24 | 32) | (SampleFormat::Float, 32) => Ok(spec),
        (SampleFormat::Int, bits) => Err(format_error(file, "codec", CODECS, format!("{bits} bit integers"))),
        (SampleFormat::Float, bits) => Err(format_error(file, "codec", CODECS, format!("{bits} bit floats"))),
    }
}

/// Converts an error of `hound` into one that names the file.
pub(super) fn refusal(file: &Path, header: &[u8], error: hound::Error) -> Error {
    match error {
        hound::Error::IoError(e) if e.raw_os_error().is_some() => Error::io(file, e),
        hound::Error::IoError(_) => header_ended(file),
        hound::Error::FormatError(reason) if reason.starts_with("bits per sample") => {
            format_error(file, "codec", CODECS, format!("another depth ({reason})"))
        }
        hound::Error::FormatError(reason) => format_error(file, "header", "a well-formed WAV header", reason),
        _ => {
            // The format is the first chunk that is kept, and its first field is the codec.
            let codec = match header.get(20..22) {
                Some(&[low, high]) => format!("codec {:#06x} or its depth", u16::from_le_bytes([low, high])),
                _ => "another codec".to_owned(),
            };
            format_error(file, "codec", CODECS, codec)
        }
    }
}

fn header_ended(file: &Path) -> Error {
    format_error(file, "header", "a complete WAV header", "the end of the file")
}
