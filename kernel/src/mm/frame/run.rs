//! Runs: consecutive whole blocks, found by a scan.

use crate::units::{BLOCK_FRAMES, Frames, Order, VcpuId};

use super::FrameAllocator;
use super::buddy::Buddy;
use super::entry::{Head, Owner, Use};
use super::error::{AllocError, Misuse, RejectedRun};
use super::lock::LockKind;
use super::token::{Contents, Run};

impl<'m, L: LockKind> FrameAllocator<'m, L> {
    /// Takes `blocks` consecutive whole blocks, the first frame a multiple of `align` blocks. Looks at every
    /// block: time grows with the size of the table.
    ///
    /// # Errors
    ///
    /// [`AllocError::NoRun`] if there is no such run, also for none or a zero alignment.
    pub fn allocate_run(
        &self,
        blocks: u64,
        align: u64,
        usage: Use,
        owner: Owner,
        cpu: VcpuId,
    ) -> Result<Run, AllocError> {
        let none = |whole| AllocError::NoRun { blocks, whole };
        let (Ok(count), Ok(align)) = (usize::try_from(blocks), usize::try_from(align)) else {
            return Err(none(0));
        };
        let attempt = |buddy: &mut Buddy<'m>| {
            let wrong = count == 0 || align == 0;
            let start =
                if wrong { None } else { buddy.find_run(count, align, self.base.get() / BLOCK_FRAMES) };
            let Some(start) = start else { return Err(none(buddy.totals.whole)) };
            let mut contents = Contents::Zero;
            for block in start..start + count as u32 {
                let Some((index, zero)) = buddy.take_whole(block, usage.class()) else {
                    unreachable!("a run of whole blocks has a block that is not whole");
                };
                if !zero {
                    contents = Contents::Unknown;
                }
                self.entry(index).set(Head::Used {
                    usage,
                    order: Order::BLOCK.get(),
                    detached: false,
                    owner,
                });
            }
            Ok(Run::new(self.gfn(start * BLOCK_FRAMES as u32), blocks, contents, self.id))
        };
        let first = self.locked(attempt);
        let again =
            if first.is_err() && self.drain(cpu) > Frames::ZERO { self.locked(attempt) } else { first };
        if again.is_err() {
            self.locked(|buddy| buddy.events.failures += 1);
        }
        again
    }

    /// Frees every block of a run.
    ///
    /// # Errors
    ///
    /// [`RejectedRun`] with the token, if it belongs to another allocator.
    pub fn free_run(&self, run: Run, contents: Contents) -> Result<(), RejectedRun> {
        let class = match self.check_run(&run) {
            Ok(usage) => usage.class(),
            Err(misuse) => {
                self.complain(misuse);
                return Err(RejectedRun { misuse, run });
            }
        };
        self.locked(|buddy| {
            for block in run.into_blocks() {
                if let Some(index) = self.index(block.first()) {
                    self.put(buddy, index, Order::BLOCK, class, contents);
                }
                block.consume();
            }
        });
        Ok(())
    }

    /// Checks every block before the first is freed, so that a run is freed whole or not at all.
    fn check_run(&self, run: &Run) -> Result<Use, Misuse> {
        let mut usage = Err(Misuse::NotAllocated(run.first()));
        for block in run.heads() {
            let checked = self.check(&block).map(|(_, usage, _)| usage);
            block.consume();
            usage = Ok(checked?);
        }
        usage
    }
}
