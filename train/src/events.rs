//! The curves of a training as `TensorBoard` reads them: `Event` messages in `TensorFlow`'s record format.

use prost::Message;

use crate::history::Epoch;

/// Name of the file in a trial's folder.
pub const FILE: &str = "events.out.tfevents.0";

/// `tensorflow.Event`, as far as curves need it.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

/// `tensorflow.Summary`
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

/// `tensorflow.Summary.Value`
#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// All epochs as the bytes of an event file; a step is an epoch.
pub fn encode(history: &[Epoch]) -> Vec<u8> {
    let start = history.first().map_or(0.0, |first| first.time - first.seconds);
    let version = Event { wall_time: start, file_version: Some("brain.Event:2".into()), ..Event::default() };
    let mut bytes = record(&version);
    for e in history {
        let values = [
            ("loss", e.loss),
            ("accuracy", e.accuracy),
            ("val_loss", e.val_loss),
            ("val_accuracy", e.val_accuracy),
            ("val_f1", e.val_f1),
            ("learning_rate", e.learning_rate),
            ("samples_per_second", e.samples_per_second),
        ];
        let value = values.map(|(tag, value)| Value { tag: tag.into(), simple_value: Some(value as f32) });
        let summary = Some(Summary { value: value.to_vec() });
        let step = i64::from(e.epoch);
        bytes.extend(record(&Event { wall_time: e.time, step, summary, ..Event::default() }));
    }
    bytes
}

/// A record: length and its checksum, message and its checksum.
fn record(event: &Event) -> Vec<u8> {
    let message = event.encode_to_vec();
    let length = (message.len() as u64).to_le_bytes();
    let sums = [masked(&length).to_le_bytes(), masked(&message).to_le_bytes()];
    [&length[..], &sums[0], &message, &sums[1]].concat()
}

/// `TensorFlow`'s masked checksum: rotated, so that the sum of data that holds its own sum is not special.
fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: the files are small.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc));
    !bytes.iter().fold(!0, byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        // RFC 3720, B.4: 32 bytes of zeros, of ones, and 0 to 31; and the usual check word.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn an_epoch_has_the_bytes_that_tensorflow_writes() {
        // By TensorFlow 2.21.0: `event_pb2` messages with these numbers, written by `tf.io.TFRecordWriter`.
        let golden = concat!(
            "1800000000000000a37f4b220900000000000059401a0d627261696e2e4576656e743a32b0a1d5e49200000000000000",
            "2747ac50090000000000a0594010012a84010a0b0a046c6f7373150000003f0a0f0a086163637572616379150000403f",
            "0a0f0a0876616c5f6c6f7373150000803e0a130a0c76616c5f6163637572616379150000603f0a0d0a0676616c5f6631",
            "150000003e0a140a0d6c6561726e696e675f7261746515000000000a190a1273616d706c65735f7065725f7365636f6e",
            "641500007a4442230bb9",
        );
        let epoch = Epoch {
            epoch: 1,
            seconds: 2.5,
            loss: 0.5,
            accuracy: 0.75,
            val_loss: 0.25,
            val_accuracy: 0.875,
            val_f1: 0.125,
            samples_per_second: 1000.0,
            time: 102.5,
            ..Epoch::default()
        };
        let byte = |at: usize| u8::from_str_radix(&golden[at..at + 2], 16).unwrap();
        let golden: Vec<u8> = (0..golden.len()).step_by(2).map(byte).collect();
        assert_eq!(encode(&[epoch]), golden);
    }
}
