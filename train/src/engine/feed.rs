//! The tables that steps read: of all rows, or of one part of an epoch while the next one is made beside it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::CudaSlice;
use shared::runtime::Device;

use super::upload::{DataSet, Uploader};
use super::{EngineError, Rows, calm};
use crate::budget::Residence;
use crate::schedule::{self, CHUNK_ROWS};
use crate::shelf::{Key, Place, Shelf};
use crate::sites::{Geometry, Sites};
use crate::step::StepPlan;
use crate::store::Store;

/// Orders tried to see how full batches get.
const TRIED_ORDERS: u64 = 8;

/// Everything that tables are made from.
pub(super) struct Source {
    images: Arc<Store>,
    /// 1 for a main track, else 0, `[rows]`
    labels: Vec<f32>,
    geometry: Geometry,
    scale: f32,
    threads: usize,
    /// Where the tables go, if not into the host's memory
    uploader: Option<Uploader>,
}

/// Tables of some rows. Nothing in them belongs to a training, so those of a whole data set are shared.
pub struct DataTables {
    /// The rows' sites
    pub(super) sites: Sites,
    /// The tables on the GPU; `sites` then has the numbers of sites only
    pub(super) on_gpu: Option<DataSet>,
    /// What [`Self::likely_rows`] found, by the rows of a batch
    likely: Mutex<BTreeMap<usize, Vec<usize>>>,
}

/// Tables of some rows for one training.
pub(super) struct Part {
    /// In the order of the epoch unless they are the whole data set's
    pub tables: Arc<DataTables>,
    /// Positions of the epoch's order that the part covers; none if it has the rows of all, by their numbers
    positions: Option<Range<usize>>,
    /// The order in which steps on a GPU take the rows
    pub order: Option<CudaSlice<i32>>,
}

/// The data set, and the order in which an epoch takes its rows.
pub(super) struct Epoch {
    source: Arc<Source>,
    pub part: Part,
    /// Among the trainings that share memory, if the tables are not shared
    _place: Option<Place>,
    /// The next part, when it is made. A receiver is for one thread, an epoch is read by several: hence the lock
    next: Option<Mutex<Receiver<Result<Part, EngineError>>>>,
    order: Arc<Vec<i64>>,
    /// Rows of a step
    pub batch_rows: usize,
    /// Number of the next step
    pub batch: usize,
}

/// Rows that a run computes.
pub(super) struct Chosen {
    /// Row numbers among the part's sites; none for padding
    pub images: Vec<Option<usize>>,
    pub labels: Vec<f32>,
    /// 1 for rows that count, 0 for padding
    pub weights: Vec<f32>,
}

impl Source {
    fn device(&self) -> Device {
        self.uploader.as_ref().map_or(Device::Cpu, |uploader| uploader.device)
    }

    /// The tables of the whole data set.
    fn whole(&self, shelf: &Shelf<DataTables>) -> Result<Part, EngineError> {
        let key = Key { geometry: self.geometry.clone(), scale: self.scale, device: self.device() };
        let tables = shelf.get(&key, || {
            let images = self.images.all()?;
            let sites = Sites::new(&self.geometry, &images, self.scale, shelf.threads(self.threads));
            drop(images);
            self.put(sites, &self.labels)
        })?;
        self.take(tables, None)
    }

    /// The tables of the rows at these positions of an epoch's order.
    fn part(&self, order: &[i64], positions: Range<usize>) -> Result<Part, EngineError> {
        let end = positions.end.min(self.labels.len());
        let rows: Vec<usize> = order[positions.start..end].iter().map(|&row| row as usize).collect();
        let sites = Sites::new(&self.geometry, &self.images.read(&rows)?, self.scale, self.threads);
        let labels: Vec<f32> = rows.iter().map(|&row| self.labels[row]).collect();
        self.take(Arc::new(self.put(sites, &labels)?), Some(positions))
    }

    fn put(&self, mut sites: Sites, labels: &[f32]) -> Result<DataTables, EngineError> {
        let on_gpu = self.uploader.as_ref().map(|uploader| uploader.upload(&sites, labels)).transpose()?;
        if on_gpu.is_some() {
            sites.keep_counts();
        }
        Ok(DataTables { sites, on_gpu, likely: Mutex::default() })
    }

    /// Tables with an order of this training's own, at first that of their rows.
    fn take(&self, tables: Arc<DataTables>, positions: Option<Range<usize>>) -> Result<Part, EngineError> {
        let order = self.uploader.as_ref().map(|uploader| uploader.order(tables.sites.rows())).transpose()?;
        Ok(Part { tables, positions, order })
    }
}

impl DataTables {
    /// Rows that the maps of each batch of `batch` rows fit into, for some orders of all rows.
    fn likely_rows(&self, batch: usize) -> Vec<usize> {
        let mut likely = self.likely.lock().unwrap_or_else(PoisonError::into_inner);
        likely.entry(batch).or_insert_with(|| self.tried((0..self.sites.rows()).collect(), batch)).clone()
    }

    /// The same for orders of these rows.
    fn tried(&self, mut numbers: Vec<usize>, batch: usize) -> Vec<usize> {
        let mut most = self.most_rows(&numbers, batch);
        for round in 0..TRIED_ORDERS {
            schedule::shuffle(&mut numbers, &mut shared::random::stream(0, "room", &[round]));
            at_least(&mut most, &self.most_rows(&numbers, batch));
        }
        most
    }

    /// The same for these rows in this order.
    fn most_rows(&self, numbers: &[usize], batch: usize) -> Vec<usize> {
        let maps = self.sites.geometry().stages() + 1;
        let mut most = vec![1; maps];
        for batch in numbers.chunks(batch) {
            let mut rows = vec![1; maps];
            for &image in batch {
                rows.iter_mut().zip(self.sites.counts(image)).for_each(|(row, count)| *row += count);
            }
            at_least(&mut most, &rows);
        }
        most
    }
}

fn at_least(most: &mut [usize], rows: &[usize]) {
    most.iter_mut().zip(rows).for_each(|(most, &rows)| *most = rows.max(*most));
}

impl Epoch {
    /// Make the tables that stay, or get ready to make parts.
    pub fn new(
        plan: &StepPlan,
        geometry: Geometry,
        rows: &Rows,
        threads: usize,
        uploader: Option<Uploader>,
    ) -> Result<Self, EngineError> {
        let source = Source {
            images: Arc::clone(&rows.images),
            labels: rows.labels.clone(),
            geometry,
            scale: plan.normalization,
            threads,
            uploader,
        };
        let (part, place) = match rows.residence {
            Residence::Whole => (source.whole(&rows.shelf)?, None),
            Residence::Parts => {
                let place = rows.shelf.place();
                (source.part(&[], 0..0)?, Some(place))
            }
        };
        Ok(Self {
            source: Arc::new(source),
            part,
            _place: place,
            next: None,
            order: Arc::default(),
            batch_rows: plan.batch,
            batch: 0,
        })
    }

    /// Take the rows in this order from step `batch` on.
    pub fn start(&mut self, order: &[i64], batch: usize) -> Result<(), EngineError> {
        self.batch = batch;
        self.order = Arc::new(order.to_vec());
        if self.part.positions.is_some() {
            self.next = None;
            let part = self.source.part(&self.order, self.positions(batch))?;
            self.replace(part);
            self.make_next();
        } else if let (Some(uploader), Some(goal)) = (&self.source.uploader, &mut self.part.order) {
            uploader.set_order(goal, order)?;
        }
        Ok(())
    }

    /// Whether the next step needs the next part.
    pub fn is_used_up(&self) -> bool {
        self.part.positions.as_ref().is_some_and(|positions| self.batch * self.batch_rows >= positions.end)
    }

    /// Go over to the next part; the one before must be in use nowhere.
    pub fn advance(&mut self) -> Result<(), EngineError> {
        let next = self.next.take().map(|next| next.into_inner().unwrap_or_else(PoisonError::into_inner));
        let made = next.and_then(|next| next.recv().ok());
        let part = match made {
            Some(part) => part?,
            None => self.source.part(&self.order, self.positions(self.batch))?,
        };
        self.replace(part);
        self.make_next();
        Ok(())
    }

    /// The part before goes calmly.
    fn replace(&mut self, part: Part) {
        let _calm = calm::use_of(self.source.device());
        self.part = part;
    }

    /// Positions of the part that has the rows of step `batch`.
    fn positions(&self, batch: usize) -> Range<usize> {
        let steps = (CHUNK_ROWS / self.batch_rows).max(1);
        let first = batch / steps * steps * self.batch_rows;
        first..self.order.len().min(first + steps * self.batch_rows)
    }

    /// Start to make the part after this one, if the epoch has one.
    fn make_next(&mut self) {
        let end = self.part.positions.as_ref().map_or(usize::MAX, |positions| positions.end);
        if end < self.order.len() {
            let (source, order) = (Arc::clone(&self.source), Arc::clone(&self.order));
            let positions = self.positions(end / self.batch_rows);
            let (send, receive) = sync_channel(1);
            std::thread::spawn(move || {
                let part = source.part(&order, positions);
                if let Err(unwanted) = send.send(part) {
                    let _calm = calm::use_of(source.device());
                    drop(unwanted);
                }
            });
            self.next = Some(Mutex::new(receive));
        }
    }

    /// Whether the part at hand has the rows of step `batch`.
    pub fn has(&self, batch: usize) -> bool {
        let end = self.part.positions.as_ref().map_or(self.order.len(), |positions| positions.end);
        batch * self.batch_rows < end
    }

    /// Position of the order that the part begins with.
    pub fn begin(&self) -> usize {
        self.part.positions.as_ref().map_or(0, |positions| positions.start)
    }

    /// Where the part's rows stand that step `batch` begins with.
    pub fn first_of(&self, batch: usize) -> usize {
        batch * self.batch_rows - self.part.positions.as_ref().map_or(0, |positions| positions.start)
    }

    /// Rows `first..first + count` of the next step's batch; those past the batch or the data set are padding.
    pub fn rows(&self, first: usize, count: usize) -> Chosen {
        let start = self.batch * self.batch_rows;
        let row = |slot: usize| {
            let position = start + slot;
            (slot < self.batch_rows && position < self.source.labels.len()).then_some(position)
        };
        let positions: Vec<Option<usize>> = (first..first + count).map(row).collect();
        let number = |position: usize| self.order[position] as usize;
        let image = |position: usize| match &self.part.positions {
            None => number(position),
            Some(positions) => position - positions.start,
        };
        Chosen {
            images: positions.iter().map(|position| position.map(image)).collect(),
            labels: positions
                .iter()
                .map(|position| position.map_or(0.0, |position| self.source.labels[number(position)]))
                .collect(),
            weights: positions.iter().map(|position| f32::from(u8::from(position.is_some()))).collect(),
        }
    }

    /// Rows that the maps of each batch fit into: of the epoch, or of the part at hand.
    pub fn most_rows(&self) -> Vec<usize> {
        self.part.tables.most_rows(&self.numbers(), self.batch_rows)
    }

    /// The same, and for other orders of these rows: those of epochs to come are likely to fit too.
    pub fn likely_rows(&self) -> Vec<usize> {
        let tables = &self.part.tables;
        let mut most = match self.part.positions {
            None => tables.likely_rows(self.batch_rows),
            Some(_) => tables.tried(self.numbers(), self.batch_rows),
        };
        at_least(&mut most, &self.most_rows());
        most
    }

    /// Numbers among the part's sites of the rows that steps take, in their order.
    fn numbers(&self) -> Vec<usize> {
        let all = self.order.len().min(self.source.labels.len());
        match &self.part.positions {
            None => self.order[..all].iter().map(|&row| row as usize).collect(),
            Some(positions) => (0..all.min(positions.end).saturating_sub(positions.start)).collect(),
        }
    }

    /// Rows of the next step that count.
    pub fn counted(&self) -> usize {
        self.batch_rows.min(self.source.labels.len().saturating_sub(self.batch * self.batch_rows))
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;
    use shared::network::SimpleCnn;
    use shared::split::Images;

    use super::*;
    use crate::Precision;

    fn plan(kernel: usize, conv_layers: usize, filters: usize, rows: usize) -> StepPlan {
        let network = SimpleCnn {
            height: 32,
            width: 8,
            filters,
            kernel,
            conv_layers,
            dense_layers: 1,
            units: 4,
            dropout: 0.1,
        };
        StepPlan {
            network,
            normalization: 0.001,
            batch: 16,
            rows,
            steps_per_epoch: rows.div_ceil(16),
            pieces: 8,
            loss: crate::loss::Loss::default(),
            optimizer: crate::optimizer::Optimizer::default(),
            seed: 1,
            trial: filters as u64,
            precision: Precision::F32,
        }
    }

    fn epoch(plan: &StepPlan, rows: &Rows) -> Epoch {
        let geometry = plan.geometry(&plan.network.layers().unwrap());
        let mut epoch = Epoch::new(plan, geometry, rows, 1, None).unwrap();
        let order = schedule::order(plan.rows, plan.steps_per_epoch * plan.batch, 1, plan.trial, 1);
        epoch.start(&order, 0).unwrap();
        epoch
    }

    fn random_rows(count: usize) -> Rows {
        let mut random = shared::random::stream(5, "feed test", &[]);
        let mut images = Images::default();
        for _ in 0..count {
            let places = random.random_range(0..200_u16)..random.random_range(200..256);
            images.push(places.step_by(3).map(|place| (place, 100.0)));
        }
        Rows::whole(images, vec![0.0; count])
    }

    #[test]
    fn trainings_of_one_geometry_share_tables_and_not_their_order() {
        let rows = Rows { shelf: Arc::new(Shelf::new(2, 1)), ..random_rows(50) };
        let [first, second] = [2, 5].map(|filters| epoch(&plan(3, 1, filters, 50), &rows));
        assert!(Arc::ptr_eq(&first.part.tables, &second.part.tables));
        assert_ne!(first.order, second.order);
        let alone = epoch(&plan(3, 1, 5, 50), &random_rows(50));
        assert_eq!(alone.part.tables.sites, second.part.tables.sites);
        let chosen = |epoch: &Epoch| epoch.part.tables.sites.batch(&epoch.rows(0, 16).images);
        assert!(chosen(&second) == chosen(&alone) && chosen(&second) != chosen(&first));

        let other = epoch(&plan(5, 1, 2, 50), &rows);
        assert!(!Arc::ptr_eq(&other.part.tables, &first.part.tables));
        let raw = epoch(&StepPlan { normalization: 1.0, ..plan(3, 1, 2, 50) }, &rows);
        assert!(!Arc::ptr_eq(&raw.part.tables, &first.part.tables));
    }

    #[test]
    fn a_step_has_room_for_the_fullest_batch_of_its_own_order_and_of_others() {
        let rows = random_rows(500);
        let found = epoch(&plan(3, 1, 2, 500), &rows);
        let (likely, most) = (found.likely_rows(), found.most_rows());
        assert!(likely.iter().zip(&most).all(|(likely, most)| likely >= most), "{likely:?} {most:?}");
        let batch = found.part.tables.sites.batch(&found.rows(0, 16).images);
        assert!(most[0] >= batch.pixels.len() / 4 && most[1] >= batch.found.len());
        // Counted once for all trainings with such batches.
        assert_eq!(found.part.tables.likely.lock().unwrap().keys().collect::<Vec<_>>(), [&16]);
        let streamed = Rows { residence: Residence::Parts, ..rows };
        assert_eq!(epoch(&plan(3, 1, 2, 500), &streamed).most_rows(), most);
    }
}
