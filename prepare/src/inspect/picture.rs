//! A cluster as a picture: ticks from left to right, channels from top to bottom.

use std::io::Write;

use crate::image::SparseImage;

/// Side of a pixel in the PNG.
const SCALE: usize = 6;
/// From empty to the greatest ADC.
const SHADES: [char; 10] = [' ', '.', ':', '-', '=', '+', '*', '#', '%', '@'];

/// The ADC of one image, and what is written below.
pub struct Picture {
    height: usize,
    width: usize,
    adc: Vec<f32>,
    /// What the cluster is
    pub caption: String,
}

impl Picture {
    /// From occupied pixels.
    pub fn of(image: SparseImage<'_>, height: usize, width: usize, caption: String) -> Self {
        let mut adc = vec![0.0; height * width];
        for (&position, &value) in image.positions.iter().zip(image.values) {
            adc[position as usize] = value;
        }
        Self { height, width, adc, caption }
    }

    /// From all pixels.
    pub fn dense(adc: &[f32], height: usize, width: usize, caption: String) -> Self {
        Self { height, width, adc: adc.to_vec(), caption }
    }

    fn greatest(&self) -> f32 {
        self.adc.iter().copied().fold(0.0, f32::max)
    }

    /// Brightness from 0 to 1 of a pixel; the root lets weak pixels show.
    fn brightness(&self, tick: usize, channel: usize) -> f32 {
        let adc = self.adc[tick * self.width + channel];
        if adc > 0.0 { (adc / self.greatest()).sqrt() } else { 0.0 }
    }

    /// As characters, in a frame.
    pub fn text(&self) -> String {
        let rule = "─".repeat(self.height);
        let mut text = format!("{}\n┌{rule}┐\n", self.caption);
        for channel in 0..self.width {
            let line: String = (0..self.height).map(|tick| shade(self.brightness(tick, channel))).collect();
            text += &["│", &line, "│\n"].concat();
        }
        let greatest = self.greatest();
        text + &format!(
            "└{rule}┘\n{} ticks of 0.512 µs →, {} channels ↓, `{}` is {greatest:.0} ADC",
            self.height, self.width, SHADES[9]
        )
    }

    /// As a grey PNG.
    pub fn png(&self) -> Vec<u8> {
        let (columns, lines) = (self.height * SCALE, self.width * SCALE);
        let mut pixels = Vec::with_capacity(lines * (columns + 1));
        for line in 0..lines {
            pixels.push(0); // no filter
            let grey = |column: usize| (self.brightness(column / SCALE, line / SCALE) * 255.0).round() as u8;
            pixels.extend((0..columns).map(grey));
        }
        let mut header = Vec::new();
        header.extend((columns as u32).to_be_bytes());
        header.extend((lines as u32).to_be_bytes());
        header.extend([8, 0, 0, 0, 0]); // 8 bits, grey
        let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
        push_chunk(&mut png, *b"IHDR", &header);
        push_chunk(&mut png, *b"IDAT", &deflated(&pixels));
        push_chunk(&mut png, *b"IEND", &[]);
        png
    }
}

fn shade(brightness: f32) -> char {
    if brightness <= 0.0 {
        return SHADES[0];
    }
    SHADES[1 + ((brightness * 8.0).round() as usize).min(8)]
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes everything")
}

fn push_chunk(png: &mut Vec<u8>, kind: [u8; 4], content: &[u8]) {
    png.extend((content.len() as u32).to_be_bytes());
    let start = png.len();
    png.extend(kind);
    png.extend(content);
    let crc = crc32fast::hash(&png[start..]);
    png.extend(crc.to_be_bytes());
}
