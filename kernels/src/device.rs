//! Where operations run: worker threads and the instruction set that their kernels may use.
#![allow(unsafe_code, reason = "rows of one output are given to several tasks")]

mod disjoint;
mod isa;
mod pool;

use std::num::NonZeroUsize;

pub(crate) use disjoint::Disjoint;
pub use isa::Isa;
use pool::Pool;

use crate::tensor::Tensor;

/// The executor of every operation. Dropping it joins its threads.
pub struct Device {
    isa: Isa,
    pool: Pool,
}

impl Device {
    /// `threads` threads in all (the caller is one of them) with the best instruction set of this machine.
    #[must_use]
    pub fn new(threads: NonZeroUsize) -> Device {
        Device { isa: Isa::best(), pool: Pool::new(threads.get() - 1) }
    }

    /// As [`Device::new`], with a given instruction set; `None` where the machine lacks it.
    #[must_use]
    pub fn with_isa(threads: NonZeroUsize, isa: Isa) -> Option<Device> {
        isa.available().then(|| Device { isa, pool: Pool::new(threads.get() - 1) })
    }

    /// The instruction set of the kernels.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Threads in all, the caller included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.pool.workers() + 1
    }

    /// Runs `task(0)`, …, `task(tasks - 1)` on the threads, the caller among them; returns when all are done. A panic in
    /// a task reaches the caller after that. Within a task, runs the tasks one after the other.
    pub fn parallel(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        self.pool.run(tasks, &task);
    }

    /// Runs `work(i, row i)` for every row; `cost` is the number of elementary steps a row takes, to choose the cuts.
    pub(crate) fn each_row(&self, x: &mut Tensor, cost: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
        let (rows, cols) = (x.rows(), x.cols());
        let chunk = self.chunk(rows, cost);
        let data = Disjoint::new(x.as_mut_slice());
        self.parallel(rows.div_ceil(chunk), |task| {
            for row in task * chunk..rows.min((task + 1) * chunk) {
                // SAFETY: each row is in one task.
                work(row, unsafe { data.range(row * cols..(row + 1) * cols) });
            }
        });
    }

    /// How many of `items` items one task should take, where an item takes `cost` elementary steps.
    pub(crate) fn chunk(&self, items: usize, cost: usize) -> usize {
        /// Below this a task costs more to hand out than to do.
        const GRAIN: usize = 8192;
        let even = items.div_ceil(4 * self.threads());
        even.max(GRAIN.div_ceil(cost.max(1))).max(1)
    }
}
