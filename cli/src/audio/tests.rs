use std::f64::consts::TAU;
use std::io::Cursor;

use hound::{WavSpec, WavWriter};
use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler as _};

use super::*;

fn wav<S: hound::Sample>(spec: WavSpec, samples: impl IntoIterator<Item = S>) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let mut writer = WavWriter::new(&mut bytes, spec).unwrap();
    samples.into_iter().for_each(|sample| writer.write_sample(sample).unwrap());
    writer.finalize().unwrap();
    bytes.into_inner()
}

fn ints(sample_rate: u32, channels: u16, bits_per_sample: u16) -> WavSpec {
    WavSpec { channels, sample_rate, bits_per_sample, sample_format: SampleFormat::Int }
}

fn floats(sample_rate: u32, channels: u16) -> WavSpec {
    WavSpec { channels, sample_rate, bits_per_sample: 32, sample_format: SampleFormat::Float }
}

/// A file of any format and any claimed data length, followed by `data`.
fn raw(codec: u16, channels: u16, rate: u32, bits: u16, claimed: u32, data: &[u8]) -> Vec<u8> {
    let frame = channels * (bits / 8);
    let mut bytes = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0".to_vec();
    bytes.extend(codec.to_le_bytes());
    bytes.extend(channels.to_le_bytes());
    bytes.extend(rate.to_le_bytes());
    bytes.extend((rate.wrapping_mul(u32::from(frame))).to_le_bytes());
    bytes.extend(frame.to_le_bytes());
    bytes.extend(bits.to_le_bytes());
    bytes.extend(b"data");
    bytes.extend(claimed.to_le_bytes());
    bytes.extend(data);
    bytes
}

fn samples(bytes: &[u8]) -> Vec<f32> {
    read(bytes).unwrap()
}

fn read(bytes: &[u8]) -> Result<Vec<f32>> {
    Recording::from_bytes("test.wav", bytes)?.rest()
}

#[track_caller]
fn refused(bytes: &[u8], field: &str) -> String {
    let error = read(bytes).unwrap_err();
    assert!(matches!(&error, Error::Format { field: found, .. } if found == field), "{error}");
    error.to_string()
}

fn sine(rate: u32, hertz: f64, amplitude: f64, seconds: f64) -> Vec<f32> {
    let length = (f64::from(rate) * seconds) as usize;
    (0..length).map(|i| (amplitude * (TAU * hertz * i as f64 / f64::from(rate)).sin()) as f32).collect()
}

/// The amplitude of the tone at `hertz` and the root mean square of everything else, in the middle half of the samples.
fn tone(samples: &[f32], hertz: f64) -> (f64, f64) {
    let middle = &samples[samples.len() / 4..samples.len() / 4 * 3];
    let phases = || (0..middle.len()).map(|i| TAU * hertz * i as f64 / f64::from(SAMPLE_RATE));
    let part = |wave: fn(f64) -> f64| {
        2.0 * middle.iter().zip(phases()).map(|(&s, p)| f64::from(s) * wave(p)).sum::<f64>() / middle.len() as f64
    };
    let (sin, cos) = (part(f64::sin), part(f64::cos));
    let rest = middle.iter().zip(phases()).map(|(&s, p)| f64::from(s) - sin * p.sin() - cos * p.cos());
    (sin.hypot(cos), (rest.map(|r| r * r).sum::<f64>() / middle.len() as f64).sqrt())
}

#[test]
fn sixteen_bit_integers_are_divided_by_32768() {
    let bytes = wav(ints(16_000, 1, 16), [-32768_i16, -1, 0, 1, 32767]);
    let recording = Recording::from_bytes("test.wav", &bytes).unwrap();
    assert_eq!((recording.source_rate(), recording.channels(), recording.len()), (16_000, 1, 5));
    assert_eq!(recording.seconds(), 5.0 / 16_000.0);
    assert_eq!(recording.rest().unwrap(), [-1.0, -1.0 / 32768.0, 0.0, 1.0 / 32768.0, 32767.0 / 32768.0]);
}

#[test]
fn every_integer_depth_has_the_same_full_scale() {
    for bits in [8, 16, 24, 32] {
        let half = 1_i32 << (bits - 2);
        assert_eq!(samples(&wav(ints(16_000, 1, bits), [-half, 0, half])), [-0.5, 0.0, 0.5], "{bits} bits");
    }
    assert_eq!(samples(&wav(ints(16_000, 1, 24), [-(1_i32 << 23), 1])), [-1.0, 1.0 / 8_388_608.0]);
}

#[test]
fn floats_at_16_khz_pass_through_bit_for_bit() {
    let written = [0.1_f32, -0.0, f32::MIN_POSITIVE / 2.0, 1.5, 1e11, -f32::EPSILON, 1.0 / 3.0];
    let read = samples(&wav(floats(16_000, 1), written));
    assert_eq!(read.map_bits(), written.to_vec().map_bits());
}

trait Bits {
    fn map_bits(&self) -> Vec<u32>;
}

impl Bits for Vec<f32> {
    fn map_bits(&self) -> Vec<u32> {
        self.iter().map(|x| x.to_bits()).collect()
    }
}

#[test]
fn channels_are_averaged() {
    let stereo = samples(&wav(ints(16_000, 2, 16), [16384_i16, 0, -16384, -16384, 32767, -32767]));
    assert_eq!(stereo, [0.25, -0.5, 0.0]);
    let surround = wav(floats(16_000, 6), [1.0_f32, 0.5, 0.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!(Recording::from_bytes("test.wav", &surround).unwrap().channels(), 6);
    assert_eq!(samples(&surround), [0.25, 0.5]);
}

#[test]
fn a_tone_keeps_its_frequency_and_amplitude() {
    for rate in [8_000, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000, 44_101] {
        for hertz in [220.0, 1_000.0, 3_400.0] {
            let read = samples(&wav(floats(rate, 1), sine(rate, hertz, 0.5, 1.0)));
            assert_eq!(read.len(), 16_000, "{rate} Hz");
            let (amplitude, rest) = tone(&read, hertz);
            assert!((amplitude - 0.5).abs() < 1e-4, "{hertz} Hz at {rate} Hz: amplitude {amplitude}");
            assert!(rest < 1e-4, "{hertz} Hz at {rate} Hz: {rest} besides the tone");
        }
    }
}

#[test]
fn a_tone_above_half_the_rate_is_removed_not_folded() {
    for (rate, hertz) in [(44_100, 12_000.0), (48_000, 8_400.0), (96_000, 30_000.0)] {
        let read = samples(&wav(floats(rate, 1), sine(rate, hertz, 0.9, 1.0)));
        let middle = &read[4_000..12_000];
        let loudest = middle.iter().fold(0.0_f32, |peak, s| peak.max(s.abs()));
        assert!(loudest < 1e-4, "{hertz} Hz at {rate} Hz leaves {loudest}");
    }
}

#[test]
fn a_click_stays_where_it_was() {
    for rate in [1_000, 8_000, 11_025, 16_000, 22_050, 44_100, 44_101, 48_000, 96_000, 192_000, 767_999] {
        let mut click = vec![0.0_f32; rate as usize];
        let position = rate as usize / 2;
        click[position] = 0.9;
        let read = samples(&wav(floats(rate, 1), click));
        assert_eq!(read.len(), 16_000, "{rate} Hz");
        let (peak, _) = read.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
        let expected = position as f64 / f64::from(rate) * 16_000.0;
        assert!((peak as f64 - expected).abs() <= 1.0, "{rate} Hz: at {peak}, not {expected}");
    }
}

#[test]
fn the_length_is_rounded_to_the_nearest_sample() {
    for (rate, length, expected) in
        [(44_100, 44_099, 16_000), (48_000, 4, 1), (48_000, 5, 2), (8_000, 8, 16), (22_050, 1_000, 726)]
    {
        let read = samples(&wav(ints(rate, 1, 16), vec![100_i16; length]));
        assert_eq!(read.len(), expected, "{length} at {rate} Hz");
    }
    let error = refused(&wav(ints(48_000, 1, 16), [1_i16]), "data");
    assert_eq!(error, "test.wav: data: expected at least one sample at 16000 Hz, found 1 at 48000 Hz");
}

#[test]
fn chunks_of_odd_length_are_skipped_with_their_padding() {
    let plain = wav(ints(16_000, 1, 16), [7_i16, -7]);
    let mut noted = plain[..12].to_vec();
    noted.extend(b"LIST\x05\0\0\0notes\0");
    noted.extend(&plain[12..]);
    assert_eq!(samples(&noted), samples(&plain));
}

#[test]
fn a_file_on_disk_reads_like_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tone.wav");
    let bytes = wav(floats(44_100, 2), sine(44_100, 440.0, 0.3, 0.5));
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(Recording::open(&path).unwrap().rest().unwrap(), samples(&bytes));
}

#[test]
fn a_missing_file_or_a_folder_is_an_io_error() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().join("missing.wav"), folder.path().to_owned()] {
        let error = Recording::open(&path).map(|_| ()).unwrap_err();
        assert!(matches!(&error, Error::Io { path: found, .. } if *found == path), "{error}");
    }
}

#[test]
fn other_files_are_refused_by_their_header() {
    assert_eq!(refused(b"", "header"), "test.wav: header: expected a WAV file, found an empty file");
    refused(b"RI", "header");
    assert_eq!(
        refused(b"# Notes\n\nnot a sound at all\n", "header"),
        "test.wav: header: expected a WAV file, found no RIFF/WAVE signature"
    );
    refused(b"RIFF\x04\0\0\0AVI LIST\0\0\0\0", "header");
    refused(b"RIFF\x04\0\0\0WAVEdata\x02\0\0\0\0\0", "header");
    refused(b"RIFF\x04\0\0\0WAVEfmt \xff\xff\xff\xff\x01\0\x01\0", "header");
    refused(b"RIFF\x04\0\0\0WAVEjunk\xff\xff\xff\xff\x01\0\x01\0", "header");
}

#[test]
fn truncated_data_is_refused_at_every_length() {
    let whole = wav(ints(16_000, 2, 16), (0..20).map(|i| i as i16));
    samples(&whole);
    for length in 0..whole.len() {
        refused(&whole[..length], if length < whole.len() - 40 { "header" } else { "data" });
    }
    assert_eq!(
        refused(&whole[..whole.len() - 1], "data"),
        "test.wav: data: expected 20 samples, found the end of the file after 19"
    );
}

#[test]
fn a_claim_beyond_the_end_is_refused() {
    for claimed in [18, 1 << 30, (1 << 31) + 2, u32::MAX - 257] {
        let error = refused(&raw(1, 1, 16_000, 16, claimed, &[0; 16]), "data");
        assert!(error.ends_with("found the end of the file after 8"), "{error}");
    }
    refused(&raw(1, 2, 16_000, 16, 18, &[0; 20]), "header");
}

#[test]
fn a_header_as_streams_write_it_is_read_to_the_end() {
    let data: Vec<u8> = (0..40).collect();
    let plain = samples(&raw(1, 2, 16_000, 16, 40, &data));
    assert_eq!(plain.len(), 10);
    // The values of ffmpeg, sox and arecord, and 0 for a size that was never filled in.
    for claimed in [u32::MAX, u32::MAX - 36, 0x7fff_f000, 0x7fff_ff00, 1 << 31, 0] {
        assert_eq!(samples(&raw(1, 2, 16_000, 16, claimed, &data)), plain, "{claimed:#x}");
        // Cut within a frame.
        assert_eq!(samples(&raw(1, 2, 16_000, 16, claimed, &data[..38])), plain[..9], "{claimed:#x}");
        refused(&raw(1, 2, 16_000, 16, claimed, &[]), "data");
    }
    // A whole file with an empty data chunk and another chunk after it.
    let mut empty = raw(1, 1, 16_000, 16, 0, b"LIST\x04\0\0\0note");
    empty[4..8].copy_from_slice(&48_u32.to_le_bytes());
    refused(&empty, "data");
}

#[test]
fn the_sizes_of_rf64_are_read() {
    let plain = wav(ints(16_000, 1, 16), [1_i16, 2, 3]);
    let sizes = |data: u64| {
        let mut bytes = b"RF64\xff\xff\xff\xffWAVEds64\x1c\0\0\0".to_vec();
        bytes.extend([0; 8]);
        bytes.extend(data.to_le_bytes());
        bytes.extend([0; 12]);
        bytes.extend(&plain[12..]);
        let at = bytes.len() - 10;
        bytes[at..at + 4].fill(0xff);
        bytes.extend(b"LIST\x04\0\0\0note");
        bytes
    };
    assert_eq!(samples(&sizes(6)), samples(&plain));
    refused(&sizes(1 << 40), "data");
    refused(&sizes(5), "header");
}

#[test]
fn a_sample_is_all_of_its_container() {
    // 20 and 24 bits that lie in the upper ones of 32, as WAVE_FORMAT_EXTENSIBLE has them.
    let value = 0x1234_5600_i32;
    for valid in [0_u16, 20, 24, 32] {
        let mut bytes =
            b"RIFF\0\0\0\0WAVEfmt \x28\0\0\0\xfe\xff\x01\0\x80\x3e\0\0\0\xfa\0\0\x04\0\x20\0\x16\0".to_vec();
        bytes.extend(valid.to_le_bytes());
        bytes.extend(b"\x04\0\0\0\x01\0\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71data\x04\0\0\0");
        bytes.extend(value.to_le_bytes());
        assert_eq!(samples(&bytes), [value as f32 / 2_147_483_648.0], "{valid} valid bits");
    }
}

#[test]
fn a_frame_that_its_channels_cannot_share_is_refused() {
    let mut bytes = raw(1, 3, 16_000, 16, 24, &[0; 24]);
    bytes[32] = 8;
    bytes[28..32].copy_from_slice(&(8 * 16_000_u32).to_le_bytes());
    refused(&bytes, "header");
}

#[test]
fn blocks_of_any_size_equal_the_whole() {
    for rate in [8_000, 16_000, 22_050, 44_101, 48_000] {
        let mono = sine(rate, 440.0, 0.4, 1.3);
        let stereo: Vec<f32> = mono.iter().flat_map(|&x| [x, x / 3.0]).collect();
        let bytes = wav(floats(rate, 2), stereo);
        let whole = samples(&bytes);
        for size in [1, 511, 4_096, 70_000] {
            let mut recording = Recording::from_bytes("test.wav", &bytes).unwrap();
            let mut blocks = Vec::new();
            loop {
                let block = recording.next(size).unwrap();
                assert!(block.len() == size || recording.next(1).unwrap().is_empty());
                if block.is_empty() {
                    break;
                }
                blocks.extend(block);
            }
            assert!(blocks.map_bits() == whole.map_bits(), "{size} at {rate} Hz");
        }
    }
}

#[test]
fn chunks_are_resampled_like_the_whole() {
    for (rate, length) in [(8_000, 20_000), (44_100, 44_099), (44_101, 30_000), (48_000, 48_000), (48_000, 700)] {
        let mono = &sine(rate, 523.0, 0.4, 1.0 + length as f64 / f64::from(rate))[..length];
        let source = rate as usize;
        let mut filter = Fft::new(source, 16_000, source * 64 / 1000, 1, FixedSync::Both).unwrap();
        let expected = filter.process_all(&InterleavedSlice::new(mono, 1, length).unwrap(), length, None).unwrap();
        let got = samples(&wav(floats(rate, 1), mono.iter().copied()));
        assert!(got.map_bits() == expected.take_data()[..got.len()].to_vec().map_bits(), "{length} at {rate} Hz");
    }
}

#[test]
fn no_samples_are_refused() {
    let error = refused(&wav::<i16>(ints(44_100, 1, 16), []), "data");
    assert_eq!(error, "test.wav: data: expected at least one sample, found none");
}

#[test]
fn eight_samples_are_enough_to_read() {
    assert_eq!(samples(&wav(ints(16_000, 1, 16), [1_i16; 8])), [1.0 / 32768.0; 8]);
}

#[test]
fn a_float_that_is_not_finite_is_named_by_its_index() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = read(&wav(floats(44_100, 2), [0.0, 0.1, 0.2, bad])).unwrap_err();
        let Error::Format { field, found, .. } = error else {
            panic!("{error}");
        };
        assert_eq!((field.as_str(), found), ("data", format!("{bad:e} at 3")));
    }
}

#[test]
fn floats_too_large_to_transform_are_refused() {
    for rate in [8_000, 16_000] {
        samples(&wav(floats(rate, 1), vec![1e12_f32; 4_000]));
        let error = refused(&wav(floats(rate, 1), [0.0, f32::MAX]), "data");
        assert!(error.ends_with("expected finite samples within ±1e12, found 3.4028234663852886e38 at 1"), "{error}");
    }
}

#[test]
fn other_codecs_are_refused_by_name() {
    for codec in [2, 6, 7, 0x11, 0x55] {
        let error = refused(&raw(codec, 1, 16_000, 16, 16, &[0; 16]), "codec");
        assert!(error.contains(&format!("{codec:#06x}")), "{error}");
    }
    refused(&raw(3, 1, 16_000, 64, 16, &[0; 16]), "codec");
    refused(&raw(1, 1, 16_000, 40, 10, &[0; 10]), "codec");
}

#[test]
fn absurd_sample_rates_are_refused() {
    for rate in [0, 1, 999, 768_001, 2_000_000_000] {
        let error = refused(&raw(1, 1, rate, 8, 16, &[0; 16]), "sample rate");
        assert!(error.ends_with(&format!("expected 1000 to 768000 Hz, found {rate} Hz")), "{error}");
    }
}

#[test]
fn no_damaged_header_panics() {
    let whole = wav(floats(44_100, 2), sine(44_100, 440.0, 0.3, 0.02));
    for byte in 0..whole.len().min(80) {
        for bit in 0..8 {
            let mut damaged = whole.clone();
            damaged[byte] ^= 1 << bit;
            if let Ok(samples) = read(&damaged) {
                assert!(!samples.is_empty());
            }
        }
    }
}
