//! The npy header: a Python dictionary literal, read by hand and never evaluated.

use super::member::MemberReader;
use super::{NpzError, ReadAt};

const MAGIC: &[u8] = b"\x93NUMPY";
/// NumPy itself refuses longer ones.
const MAX_LENGTH: usize = 10_000;

/// Type, order and shape of an array.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Element type
    pub kind: ElementType,
    /// Extent along each axis
    pub shape: Vec<u64>,
    /// Bytes before the data
    pub length: usize,
}

/// Numbers that are converted: floats and integers of either byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElementType {
    class: Class,
    size: usize,
    big_endian: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Float,
    Signed,
    Unsigned,
}

impl ElementType {
    fn parse(descr: &str) -> Option<Self> {
        let mut letters = descr.chars();
        let (order, class) = (letters.next()?, letters.next()?);
        let size = letters.as_str().parse().ok()?;
        let class = match class {
            'f' => Class::Float,
            'i' => Class::Signed,
            'u' => Class::Unsigned,
            _ => return None,
        };
        let known = match class {
            Class::Float => matches!(size, 4 | 8),
            _ => matches!(size, 1 | 2 | 4 | 8),
        };
        let ordered = matches!(order, '<' | '>') || (order == '|' && size == 1);
        (known && ordered).then_some(Self { class, size, big_endian: order == '>' })
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        self.size
    }

    /// Whether no conversion is needed.
    pub fn is_f32_le(self) -> bool {
        self == Self { class: Class::Float, size: 4, big_endian: false }
    }

    /// Add the elements as f64 to `out`.
    pub fn push_f64(self, bytes: &[u8], out: &mut Vec<f64>) {
        if self.is_f32_le() {
            let (elements, _) = bytes.as_chunks();
            out.extend(elements.iter().map(|&element| f64::from(f32::from_le_bytes(element))));
        } else {
            out.extend(bytes.chunks_exact(self.size).map(|element| self.value(element)));
        }
    }

    fn value(self, element: &[u8]) -> f64 {
        let mut little = [0; 8];
        little[..self.size].copy_from_slice(element);
        if self.big_endian {
            little[..self.size].reverse();
        }
        let bits = u64::from_le_bytes(little);
        match (self.class, self.size) {
            (Class::Float, 4) => f64::from(f32::from_bits(bits as u32)),
            (Class::Float, _) => f64::from_bits(bits),
            (Class::Unsigned, _) => bits as f64,
            (Class::Signed, size) => {
                let unused = 64 - 8 * size as u32;
                ((bits << unused).cast_signed() >> unused) as f64
            }
        }
    }
}

impl std::fmt::Display for ElementType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let class = match self.class {
            Class::Float => 'f',
            Class::Signed => 'i',
            Class::Unsigned => 'u',
        };
        let order = if self.size == 1 {
            '|'
        } else if self.big_endian {
            '>'
        } else {
            '<'
        };
        write!(f, "{order}{class}{}", self.size)
    }
}

impl Header {
    /// Read the header of array `name` from the front of its member.
    pub fn read<R: ReadAt>(name: &'static str, reader: &mut MemberReader<'_, R>) -> Result<Self, NpzError> {
        let invalid = |reason: &str| NpzError::Header { name, reason: reason.to_owned() };
        if reader.left() < 10 {
            return Err(invalid("it is too short"));
        }
        let mut start = [0; 8];
        reader.fill(&mut start)?;
        if &start[..6] != MAGIC {
            return Err(invalid("it does not start with `\\x93NUMPY`"));
        }
        let wide = match start[6] {
            1 => false,
            2 | 3 => true,
            version => return Err(invalid(&format!("its version is {version}, known are 1, 2 and 3"))),
        };
        let mut length = [0; 4];
        let length_bytes = if wide { 4 } else { 2 };
        if reader.left() < length_bytes as u64 {
            return Err(invalid("it is too short"));
        }
        reader.fill(&mut length[..length_bytes])?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_LENGTH || length as u64 > reader.left() {
            return Err(invalid(&format!("it claims to be {length} bytes long")));
        }
        let mut text = vec![0; length];
        reader.fill(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        Self::parse(name, &text, 8 + length_bytes + length)
    }

    fn parse(name: &'static str, text: &str, length: usize) -> Result<Self, NpzError> {
        let fields = literal::dictionary(text).map_err(|reason| NpzError::Header { name, reason })?;
        let kind = ElementType::parse(&fields.descr)
            .ok_or_else(|| NpzError::Type { name, descr: fields.descr.clone() })?;
        let header = Self { kind, shape: fields.shape, length };
        if fields.fortran_order && header.shape.iter().filter(|&&extent| extent > 1).count() > 1 {
            return Err(NpzError::Fortran { name });
        }
        Ok(header)
    }

    /// Check that header and data fill the member exactly.
    pub fn check_size(&self, name: &'static str, held: u64) -> Result<(), NpzError> {
        let elements = self.shape.iter().try_fold(1_u64, |product, &extent| product.checked_mul(extent));
        let bytes = elements.and_then(|n| n.checked_mul(self.kind.size as u64));
        let total = bytes.and_then(|n| n.checked_add(self.length as u64));
        if total == Some(held) {
            return Ok(());
        }
        let claimed = total.map_or_else(|| "more than 2^64".to_owned(), |n| n.to_string());
        Err(NpzError::Size { name, claimed, held })
    }

    /// The shape as `[N, H, W]`.
    pub fn shape_text(&self) -> String {
        let extents: Vec<_> = self.shape.iter().map(u64::to_string).collect();
        format!("[{}]", extents.join(", "))
    }
}

/// The literal of the header: `{'descr': '<f4', 'fortran_order': False, 'shape': (85, 128, 16), }`.
mod literal {
    pub struct Fields {
        pub descr: String,
        pub fortran_order: bool,
        pub shape: Vec<u64>,
    }

    pub fn dictionary(text: &str) -> Result<Fields, String> {
        let mut rest = expect(text.trim(), "{")?;
        let (mut descr, mut order, mut shape) = (None, None, None);
        while !rest.starts_with('}') {
            let (key, after) = string(rest)?;
            rest = expect(after, ":")?;
            match key {
                "descr" if descr.is_none() => (descr, rest) = some(description(rest)?),
                "fortran_order" if order.is_none() => (order, rest) = some(boolean(rest)?),
                "shape" if shape.is_none() => (shape, rest) = some(tuple(rest)?),
                other => return Err(format!("key `{other}` is unknown or comes twice")),
            }
            if !rest.starts_with('}') {
                rest = expect(rest, ",")?;
            }
        }
        if !rest[1..].trim().is_empty() {
            return Err("something follows the dictionary".to_owned());
        }
        let missing = |key| format!("key `{key}` is missing");
        Ok(Fields {
            descr: descr.ok_or_else(|| missing("descr"))?,
            fortran_order: order.ok_or_else(|| missing("fortran_order"))?,
            shape: shape.ok_or_else(|| missing("shape"))?,
        })
    }

    fn some<T>((value, rest): (T, &str)) -> (Option<T>, &str) {
        (Some(value), rest)
    }

    fn expect<'a>(text: &'a str, token: &str) -> Result<&'a str, String> {
        text.strip_prefix(token).map(str::trim_start).ok_or_else(|| format!("`{token}` is missing"))
    }

    fn string(text: &str) -> Result<(&str, &str), String> {
        let quote = text.chars().next().filter(|quote| matches!(quote, '\'' | '"'));
        let quote = quote.ok_or("a quoted string is missing")?;
        let (value, rest) = text[1..].split_once(quote).ok_or("a quoted string does not end")?;
        Ok((value, rest.trim_start()))
    }

    /// A type name, or the raw text of a structured type's list, which no numbers have.
    fn description(text: &str) -> Result<(String, &str), String> {
        if !text.starts_with('[') {
            return string(text).map(|(value, rest)| (value.to_owned(), rest));
        }
        let end = text.rfind(']').ok_or("a list does not end")?;
        Ok((text[..=end].to_owned(), text[end + 1..].trim_start()))
    }

    fn boolean(text: &str) -> Result<(bool, &str), String> {
        let found = [("True", true), ("False", false)];
        let found = found.into_iter().find_map(|(word, value)| Some((value, text.strip_prefix(word)?)));
        let (value, rest) = found.ok_or("`fortran_order` is neither True nor False")?;
        Ok((value, rest.trim_start()))
    }

    fn tuple(text: &str) -> Result<(Vec<u64>, &str), String> {
        let rest = expect(text, "(")?;
        let (inside, rest) = rest.split_once(')').ok_or("the shape does not end")?;
        let mut extents: Vec<&str> = inside.split(',').map(str::trim).collect();
        if extents.last() == Some(&"") {
            extents.pop();
        }
        if extents.len() > 32 {
            return Err("the shape has more than 32 axes".to_owned());
        }
        let extent = |text: &&str| {
            let digits = text.strip_suffix('L').unwrap_or(text); // Python 2 wrote long integers so
            let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            is_number.then(|| digits.parse().ok()).flatten()
        };
        let shape: Option<Vec<u64>> = extents.iter().map(extent).collect();
        let shape = shape.ok_or_else(|| format!("shape ({inside}) is not made of sizes"))?;
        Ok((shape, rest.trim_start()))
    }
}
