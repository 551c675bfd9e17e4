//! Worker threads whose results come back in the order in which the jobs were given.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

type Task<'env> = Box<dyn FnOnce() + Send + 'env>;

/// Worker threads that take jobs first in, first out.
pub struct Pool<'env> {
    queue: Sender<Task<'env>>,
}

impl<'env> Pool<'env> {
    /// Start the threads; they end when the pool is dropped.
    pub fn new<'scope>(scope: &'scope Scope<'scope, 'env>, threads: usize) -> Self
    where
        'env: 'scope,
    {
        let (queue, tasks) = channel::<Task<'env>>();
        let tasks = Arc::new(Mutex::new(tasks));
        for _ in 0..threads {
            let tasks = Arc::clone(&tasks);
            scope.spawn(move || {
                loop {
                    let task = tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(task) = task else { return };
                    task();
                }
            });
        }
        Self { queue }
    }

    /// Queue a job; it waits while `capacity` of its results are not yet taken.
    ///
    /// A job should stop when sending fails: nobody wants its results any more.
    pub fn submit<T: Send + 'env>(
        &self,
        capacity: usize,
        job: impl FnOnce(&SyncSender<T>) + Send + 'env,
    ) -> Receiver<T> {
        let (sender, receiver) = sync_channel(capacity);
        let task: Task<'env> = Box::new(move || job(&sender));
        // The threads outlive the pool, so somebody listens.
        let _ = self.queue.send(task);
        receiver
    }
}
