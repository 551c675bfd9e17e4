//! What trainings of one process share: tables that depend on the rows and a network's geometry, and on nothing else of a trial.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use shared::runtime::Device;

use crate::engine::calm;
use crate::sites::Geometry;

/// What tables of the same rows differ by.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// Maps of the network
    pub geometry: Geometry,
    /// Factor on ADC counts
    pub scale: f32,
    /// Where the tables are
    pub device: Device,
}

/// Tables of the rows of one split, each made once and kept for others.
///
/// There are as many places as trainings run side by side, and each training takes one. Tables that nobody uses stay while there are places,
/// and go, those asked for longest ago first, before others are made. So there are never more tables than there would be if each
/// training had its own, which is what the share of memory of a training counts on (see [`Room::beside`](crate::budget::Room::beside)).
pub struct Shelf<T> {
    places: usize,
    threads: usize,
    content: Mutex<Content<T>>,
}

/// What takes places.
struct Content<T> {
    /// In the order in which they were asked for
    entries: Vec<Arc<Entry<T>>>,
    /// Trainings whose tables are not here
    others: Vec<Weak<()>>,
}

/// Tables, or a place for those that are being made.
struct Entry<T> {
    key: Key,
    made: Mutex<Option<Arc<T>>>,
}

/// The place of a training that has tables of its own.
#[derive(Debug)]
pub(crate) struct Place {
    _counted: Arc<()>,
}

impl<T> Shelf<T> {
    /// A shelf for so many trainings side by side, which together have so many threads.
    pub fn new(places: usize, threads: usize) -> Self {
        Self { places, threads, content: Mutex::new(Content { entries: Vec::new(), others: Vec::new() }) }
    }

    /// Threads that make tables for a training with `own` threads: others that want the same tables wait for them.
    pub(crate) fn threads(&self, own: usize) -> usize {
        self.threads.max(own)
    }

    /// The tables of a key, from `make` if nobody has made them. Who asks while another makes them waits for that.
    ///
    /// To be called without a hold on the GPU ([`calm::use_of`]): making tables needs one, and would wait for a capture that waits for this one.
    ///
    /// # Errors
    /// Those of `make`; the next one to ask then tries again.
    pub(crate) fn get<E>(&self, key: &Key, make: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        let entry = self.entry(key);
        let mut made = lock(&entry.made);
        if let Some(tables) = &*made {
            return Ok(Arc::clone(tables));
        }
        let tables = Arc::new(make()?);
        *made = Some(Arc::clone(&tables));
        Ok(tables)
    }

    /// A place for a training whose tables are not here, for as long as it is held.
    pub(crate) fn place(&self) -> Place {
        let mut content = lock(&self.content);
        let gone = content.make_room(self.places);
        let counted = Arc::new(());
        content.others.push(Arc::downgrade(&counted));
        drop(content);
        free(gone);
        Place { _counted: counted }
    }

    /// The entry of a key, now the last one that was asked for.
    fn entry(&self, key: &Key) -> Arc<Entry<T>> {
        let mut content = lock(&self.content);
        let (entry, gone) = if let Some(at) = content.entries.iter().position(|entry| entry.key == *key) {
            (content.entries.remove(at), Vec::new())
        } else {
            let gone = content.make_room(self.places);
            (Arc::new(Entry { key: key.clone(), made: Mutex::new(None) }), gone)
        };
        content.entries.push(Arc::clone(&entry));
        drop(content);
        free(gone);
        entry
    }
}

impl<T> Content<T> {
    /// Take out what nobody uses until one more has a place.
    fn make_room(&mut self, places: usize) -> Vec<Arc<Entry<T>>> {
        self.others.retain(|other| other.strong_count() > 0);
        let mut gone = Vec::new();
        while self.entries.len() + self.others.len() >= places {
            let Some(at) = self.entries.iter().position(Entry::is_unused) else { break };
            gone.push(self.entries.remove(at));
        }
        gone
    }
}

impl<T> Entry<T> {
    /// Whether nobody has these tables, makes them or waits for them; a new user needs the lock on the shelf's content.
    fn is_unused(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1
            && lock(&self.made).as_ref().is_none_or(|tables| Arc::strong_count(tables) == 1)
    }
}

/// Tables on a GPU go calmly.
fn free<T>(entries: Vec<Arc<Entry<T>>>) {
    for entry in entries {
        let _calm = calm::use_of(entry.key.device);
        drop(entry);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Default for Shelf<T> {
    /// For one training, with the threads it has.
    fn default() -> Self {
        Self::new(1, 0)
    }
}

impl<T> Drop for Shelf<T> {
    fn drop(&mut self) {
        let content = self.content.get_mut().unwrap_or_else(PoisonError::into_inner);
        free(std::mem::take(&mut content.entries));
    }
}

impl<T> fmt::Debug for Shelf<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shelf").field("places", &self.places).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use shared::network::SimpleCnn;

    use super::*;

    fn key(kernel: usize, conv_layers: usize, scale: f32) -> Key {
        let network = SimpleCnn {
            height: 32,
            width: 8,
            filters: 4,
            kernel,
            conv_layers,
            dense_layers: 1,
            units: 4,
            dropout: 0.0,
        };
        Key { geometry: Geometry::new(&network.layers().unwrap(), kernel), scale, device: Device::Cpu }
    }

    fn get(shelf: &Shelf<usize>, key: &Key, value: usize) -> Arc<usize> {
        shelf.get(key, || Ok::<_, Infallible>(value)).unwrap()
    }

    #[test]
    fn trainings_of_one_geometry_that_start_at_the_same_moment_make_its_tables_once() {
        let (shelf, made, start) = (Shelf::new(4, 1), AtomicUsize::new(0), Barrier::new(4));
        let ask = || {
            start.wait();
            let make = || {
                std::thread::sleep(Duration::from_millis(50));
                Ok::<_, Infallible>(made.fetch_add(1, Ordering::SeqCst))
            };
            shelf.get(&key(3, 2, 0.001), make).unwrap()
        };
        let found: Vec<Arc<usize>> = std::thread::scope(|scope| {
            let asking: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            asking.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(made.into_inner(), 1);
        assert!(found.iter().all(|tables| Arc::ptr_eq(tables, &found[0])));
    }

    #[test]
    fn another_kernel_depth_scale_or_device_has_tables_of_its_own() {
        let shelf = Shelf::new(8, 1);
        let first = key(3, 2, 0.001);
        let gpu = Key { device: Device::Cuda(0), ..first.clone() };
        let keys = [first.clone(), key(5, 2, 0.001), key(3, 1, 0.001), key(3, 2, 1.0), gpu];
        let found: Vec<_> = keys.iter().enumerate().map(|(at, key)| get(&shelf, key, at)).collect();
        assert!(found.iter().enumerate().all(|(at, value)| **value == at));
        assert_eq!(*get(&shelf, &first, 9), 0);
    }

    #[test]
    fn tables_that_nobody_uses_stay_until_others_need_their_place() {
        let shelf = Shelf::new(2, 1);
        let (a, b, c) = (key(3, 1, 1.0), key(3, 2, 1.0), key(5, 1, 1.0));
        let first = Arc::downgrade(&get(&shelf, &a, 1));
        let second = get(&shelf, &b, 2);
        assert!(first.upgrade().is_some(), "there is a place for it");
        assert_eq!(*get(&shelf, &a, 9), 1, "it is not made again");
        let third = get(&shelf, &c, 3);
        assert!(first.upgrade().is_none(), "a third one takes its place");
        assert_eq!((*get(&shelf, &b, 9), *get(&shelf, &c, 9)), (2, 3), "those in use stay");
        // More users than places: none waits, and the next one that goes is not kept beside the new ones.
        let fourth = get(&shelf, &a, 4);
        let second = Arc::downgrade(&{ second });
        let fifth = get(&shelf, &key(5, 2, 1.0), 5);
        assert!(second.upgrade().is_none());
        assert_eq!((*third, *fourth, *fifth), (3, 4, 5));
    }

    #[test]
    fn a_training_without_tables_here_takes_a_place() {
        let shelf = Shelf::new(2, 1);
        let (a, b) = (key(3, 1, 1.0), key(3, 2, 1.0));
        let [first, second] = [(&a, 1), (&b, 2)].map(|(key, value)| Arc::downgrade(&get(&shelf, key, value)));
        let place = shelf.place();
        assert!(first.upgrade().is_none(), "the one asked for longest ago goes");
        let first = Arc::downgrade(&get(&shelf, &a, 3));
        assert!(second.upgrade().is_none(), "there is one place beside the other training");
        drop(place);
        assert_eq!(*get(&shelf, &b, 4), 4);
        assert!(first.upgrade().is_some(), "both places are free again");
    }

    #[test]
    fn tables_that_could_not_be_made_are_tried_again() {
        let shelf = Shelf::new(1, 1);
        assert_eq!(shelf.get(&key(3, 1, 1.0), || Err("disk full")), Err("disk full"));
        assert_eq!(*get(&shelf, &key(3, 1, 1.0), 7), 7);
        assert_eq!(*get(&shelf, &key(3, 2, 1.0), 8), 8);
    }
}
