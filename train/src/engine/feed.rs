//! The tables that steps read: of all rows, or of one part of an epoch while the next one is made beside it.

use std::ops::Range;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use shared::runtime::Device;

use super::upload::{DataSet, Uploader};
use super::{EngineError, Rows, calm};
use crate::budget::Residence;
use crate::schedule::{self, CHUNK_ROWS};
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

/// Tables of some rows.
pub(super) struct Part {
    /// The rows' sites, in the order of the epoch unless they are the whole data set's
    pub sites: Sites,
    /// Positions of the epoch's order that the part covers; none if it has the rows of all, by their numbers
    positions: Option<Range<usize>>,
    /// The tables on the GPU; `sites` then has the numbers of sites only
    pub on_gpu: Option<DataSet>,
}

/// The data set, and the order in which an epoch takes its rows.
pub(super) struct Epoch {
    source: Arc<Source>,
    pub part: Part,
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
    fn whole(&self) -> Result<Part, EngineError> {
        let images = self.images.all()?;
        let sites = Sites::new(&self.geometry, &images, self.scale, self.threads);
        drop(images);
        self.put(sites, None, &self.labels)
    }

    /// The tables of the rows at these positions of an epoch's order.
    fn part(&self, order: &[i64], positions: Range<usize>) -> Result<Part, EngineError> {
        let end = positions.end.min(self.labels.len());
        let rows: Vec<usize> = order[positions.start..end].iter().map(|&row| row as usize).collect();
        let sites = Sites::new(&self.geometry, &self.images.read(&rows)?, self.scale, self.threads);
        let labels: Vec<f32> = rows.iter().map(|&row| self.labels[row]).collect();
        self.put(sites, Some(positions), &labels)
    }

    fn put(
        &self,
        mut sites: Sites,
        positions: Option<Range<usize>>,
        labels: &[f32],
    ) -> Result<Part, EngineError> {
        let mut on_gpu = None;
        if let Some(uploader) = &self.uploader {
            let mut data = uploader.upload(&sites, labels)?;
            if positions.is_some() {
                let order: Vec<i64> = (0..labels.len() as i64).collect();
                uploader.set_order(&mut data, &order)?;
            }
            on_gpu = Some(data);
            sites.keep_counts();
        }
        Ok(Part { sites, positions, on_gpu })
    }
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
        let part = match rows.residence {
            Residence::Whole => source.whole()?,
            Residence::Parts => source.part(&[], 0..0)?,
        };
        Ok(Self {
            source: Arc::new(source),
            part,
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
        } else if let (Some(uploader), Some(data)) = (&self.source.uploader, &mut self.part.on_gpu) {
            uploader.set_order(data, order)?;
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
        self.most_rows_of(&self.numbers())
    }

    /// The same, and for other orders of these rows: those of epochs to come are likely to fit too.
    pub fn likely_rows(&self) -> Vec<usize> {
        let mut numbers = self.numbers();
        let mut most = self.most_rows_of(&numbers);
        for round in 0..TRIED_ORDERS {
            schedule::shuffle(&mut numbers, &mut shared::random::stream(0, "room", &[round]));
            most.iter_mut().zip(self.most_rows_of(&numbers)).for_each(|(most, rows)| *most = rows.max(*most));
        }
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

    fn most_rows_of(&self, numbers: &[usize]) -> Vec<usize> {
        let maps = self.part.sites.geometry().stages() + 1;
        let mut most = vec![1; maps];
        for batch in numbers.chunks(self.batch_rows) {
            let mut rows = vec![1; maps];
            for &image in batch {
                rows.iter_mut().zip(self.part.sites.counts(image)).for_each(|(row, count)| *row += count);
            }
            most.iter_mut().zip(rows).for_each(|(most, rows)| *most = rows.max(*most));
        }
        most
    }

    /// Rows of the next step that count.
    pub fn counted(&self) -> usize {
        self.batch_rows.min(self.source.labels.len().saturating_sub(self.batch * self.batch_rows))
    }
}
