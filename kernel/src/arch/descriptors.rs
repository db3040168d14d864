//! Segments, the task state with its emergency stacks, and the descriptor table that names them.
#![expect(unsafe_code, reason = "loading what the processor uses from then on")]

use x86_64::VirtAddr;
use x86_64::instructions::tables::load_tss;
use x86_64::registers::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;

/// Selector of the code segment, as the trap gates name it.
pub(super) const CODE_SELECTOR: u16 = 8;

/// A stack that the processor switches to by itself, whatever the stack pointer was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EmergencyStack {
    /// For the double fault, such as a page fault on a full stack.
    DoubleFault,
    /// For the non-maskable interrupt.
    Nmi,
    /// For the machine check.
    MachineCheck,
}

impl EmergencyStack {
    /// How many there are.
    pub const COUNT: usize = 3;

    /// Its place in the task state's table; gates count from 1.
    pub(super) const fn index(self) -> usize {
        match self {
            Self::DoubleFault => 0,
            Self::Nmi => 1,
            Self::MachineCheck => 2,
        }
    }
}

/// The task state of a processor.
#[derive(Debug)]
pub struct TaskState(TaskStateSegment);

impl TaskState {
    /// A task state whose emergency stacks end at `tops`, in the order of [`EmergencyStack`].
    #[must_use]
    pub fn new(tops: [u64; EmergencyStack::COUNT]) -> Self {
        let mut state = TaskStateSegment::new();
        let mut table = [VirtAddr::zero(); 7];
        for (slot, top) in table.iter_mut().zip(tops) {
            *slot = VirtAddr::new(top);
        }
        state.interrupt_stack_table = table;
        Self(state)
    }
}

/// The segments of a processor.
#[derive(Debug)]
pub struct Segments {
    table: GlobalDescriptorTable,
    state_selector: SegmentSelector,
    data_selector: SegmentSelector,
}

impl Segments {
    /// A flat code segment, a flat data segment, and `state`.
    ///
    /// # Panics
    ///
    /// If the code segment is not where the trap gates expect it, which is fixed by this function.
    #[must_use]
    pub fn new(state: &'static TaskState) -> Self {
        let mut table = GlobalDescriptorTable::new();
        let code = table.append(Descriptor::kernel_code_segment());
        let data_selector = table.append(Descriptor::kernel_data_segment());
        let state_selector = table.append(Descriptor::tss_segment(&state.0));
        assert!(code.0 == CODE_SELECTOR, "the code segment is the first");
        Self { table, state_selector, data_selector }
    }

    /// Makes these the segments of this processor.
    ///
    /// # Safety
    ///
    /// No other processor uses the same segments: loading marks the task state as busy. The emergency stacks are
    /// mapped, writable, and used by nobody else.
    pub unsafe fn load(&'static self) {
        self.table.load();
        // SAFETY: selector 8 is a flat 64-bit code segment (`new`), as the one in use is.
        unsafe { CS::set_reg(SegmentSelector(CODE_SELECTOR)) }
        // SAFETY: a flat data segment; the base of these is ignored in long mode anyway.
        unsafe { SS::set_reg(self.data_selector) }
        // SAFETY: as above.
        unsafe { DS::set_reg(self.data_selector) }
        // SAFETY: as above.
        unsafe { ES::set_reg(self.data_selector) }
        // SAFETY: the selector names a task state that lives for ever, not busy by this function's contract.
        unsafe { load_tss(self.state_selector) }
    }
}
