//! The console daemon.

use core::sync::atomic::Ordering;
use ebb::xen::SharedPage;
use std::collections::VecDeque;
use std::string::String;
use std::vec::Vec;

/// Rings and indices of the page (Xen: `xen/include/public/io/console.h`).
const IN: usize = 0;
const IN_SIZE: u32 = 1024;
const OUT: usize = 1024;
const OUT_SIZE: u32 = 2048;
const IN_CONS: usize = 3072;
const IN_PROD: usize = 3076;
const OUT_CONS: usize = 3080;
const OUT_PROD: usize = 3084;

/// Reads a guest's output into a log and types into its input.
#[derive(Debug)]
pub struct Xenconsoled {
    page: SharedPage,
    log: Vec<u8>,
    typed: VecDeque<u8>,
    /// Whether anybody reads; without, the ring fills up.
    pub attached: bool,
    /// How many bytes one step moves in each direction.
    pub chunk: usize,
    /// There may be something to do: the guest sent an event, or somebody typed.
    awake: bool,
    /// The daemon found indices that make no sense and does not touch the ring any more.
    pub gave_up: bool,
}

impl Xenconsoled {
    /// A daemon on the ring in `page`.
    #[must_use]
    pub fn new(page: SharedPage) -> Self {
        Self {
            page,
            log: Vec::new(),
            typed: VecDeque::new(),
            attached: true,
            chunk: usize::MAX,
            // Binding to the guest's port leaves it pending.
            awake: true,
            gave_up: false,
        }
    }

    /// What the guest has written.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.log).into_owned()
    }

    /// Types `text` into the guest's console.
    pub fn type_in(&mut self, text: &str) {
        self.typed.extend(text.bytes());
        self.awake = true;
    }

    /// The guest sent an event. Without one, the daemon does not look at a ring that had nothing more to do.
    pub fn signal(&mut self) {
        self.awake = true;
    }

    fn index(&self, offset: usize) -> u32 {
        self.page.u32(offset).load(Ordering::Acquire)
    }

    /// Moves bytes, and answers whether the guest gets an event.
    pub fn step(&mut self) -> bool {
        if !self.attached || self.gave_up || !self.awake {
            return false;
        }
        let read = self.read_output();
        let typed = self.write_input();
        self.awake = read || typed;
        self.awake
    }

    fn read_output(&mut self) -> bool {
        let (prod, mut cons) = (self.index(OUT_PROD), self.index(OUT_CONS));
        if prod.wrapping_sub(cons) > OUT_SIZE {
            self.gave_up = true;
            return false;
        }
        let mut left = self.chunk;
        while cons != prod && left > 0 {
            self.log.push(self.page.u8(OUT + (cons % OUT_SIZE) as usize).load(Ordering::Relaxed));
            cons = cons.wrapping_add(1);
            left -= 1;
        }
        self.page.u32(OUT_CONS).store(cons, Ordering::Release);
        left != self.chunk
    }

    fn write_input(&mut self) -> bool {
        let (mut prod, cons) = (self.index(IN_PROD), self.index(IN_CONS));
        let mut left = self.chunk;
        while prod.wrapping_sub(cons) < IN_SIZE && left > 0 {
            let Some(byte) = self.typed.pop_front() else { break };
            self.page.u8(IN + (prod % IN_SIZE) as usize).store(byte, Ordering::Relaxed);
            prod = prod.wrapping_add(1);
            left -= 1;
        }
        self.page.u32(IN_PROD).store(prod, Ordering::Release);
        left != self.chunk
    }
}
