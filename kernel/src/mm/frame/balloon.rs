//! The way out of the guest and back: extents that are taken for the balloon, marked, kept, and returned.
//!
//! ```text
//!   free ──take_block_for_balloon──▶ Extent<Owned> ──mark_ballooned──▶ Extent<Ballooned> ──deposit──▶ the table
//!     ▲                                  │                              │            ▲                  │
//!     └──────────────free────────────────┘                              │            └────withdraw──────┘
//!     └──────────────────────────────give_back──────────────────────────┘
//! ```
//!
//! Between `take` and `mark` the hypervisor takes the memory; between `withdraw` and `give_back` it returns it. Where
//! it refuses, the caller goes back the way it came. A deposited extent costs the balloon no storage: the block's
//! record remembers it, and a block that is deposited whole leaves its page of the frame table all zero.

use crate::units::{Gfn, Order};

use super::FrameAllocator;
use super::buddy::Buddy;
use super::entry::{Head, Owner, Use};
use super::error::{Misuse, Rejected};
use super::lock::LockKind;
use super::token::{Ballooned, Contents, Extent, State};

impl<'m, L: LockKind> FrameAllocator<'m, L> {
    /// Takes a wholly free block, of the preferred contents if there is one. Ignores the watermarks: how far the
    /// balloon goes is its policy's business. Drains nothing; see [`drain`](Self::drain).
    #[must_use]
    pub fn take_block_for_balloon(&self, prefer: Contents) -> Option<Extent> {
        self.take_for_balloon(Order::BLOCK, |buddy| {
            let block = buddy.choose_whole(prefer == Contents::Zero)?;
            buddy.take_whole(block, Use::Ballooning.class())
        })
    }

    /// Takes a free frame: from a block of which a part is in the balloon already, or else from the block that has
    /// the fewest. No whole block will miss them, and few blocks are broken for the hypervisor.
    #[must_use]
    pub fn take_frame_for_balloon(&self, prefer: Contents) -> Option<Extent> {
        self.take_for_balloon(Order::FRAME, |buddy| buddy.take_least(prefer == Contents::Zero))
    }

    fn take_for_balloon(
        &self,
        order: Order,
        take: impl FnOnce(&mut Buddy<'m>) -> Option<(u32, bool)>,
    ) -> Option<Extent> {
        self.locked(|buddy| {
            let (index, zero) = take(buddy)?;
            let (usage, owner) = (Use::Ballooning, Owner::NONE);
            self.entry(index).set(Head::Used { usage, order: order.get(), detached: false, owner });
            Some(self.extent(index, order, zero))
        })
    }

    /// Records that the hypervisor has taken the memory of an extent, of any order and use.
    ///
    /// # Errors
    ///
    /// [`Rejected`] with the token, if it belongs to another allocator.
    pub fn mark_ballooned(&self, extent: Extent) -> Result<Extent<Ballooned>, Rejected> {
        match self.check(&extent) {
            Err(misuse) => Err(self.reject(misuse, extent)),
            Ok((index, usage, _)) => {
                let order = extent.order();
                self.locked(|buddy| {
                    self.entry(index).set(Head::Ballooned { order: order.get() });
                    buddy.lend(index, usize::from(order.get()), usage.class());
                });
                Ok(turn(extent))
            }
        }
    }

    /// Leaves a ballooned extent in the keeping of the frame table, until it is withdrawn.
    ///
    /// # Errors
    ///
    /// [`Rejected`] with the token, if it belongs to another allocator.
    pub fn deposit(&self, extent: Extent<Ballooned>) -> Result<(), Rejected<Ballooned>> {
        match self.check_ballooned(&extent) {
            Err(misuse) => Err(self.reject(misuse, extent)),
            Ok(index) => {
                self.locked(|buddy| {
                    self.entry(index).set(Head::Nothing);
                    buddy.deposit(index, usize::from(extent.order().get()));
                });
                extent.consume();
                Ok(())
            }
        }
    }

    /// A block that was deposited whole, or piece by piece until it was whole.
    #[must_use]
    pub fn withdraw_block(&self) -> Option<Extent<Ballooned>> {
        self.withdraw(Order::BLOCK)
    }

    /// A deposited frame; a whole block is broken only if there is no other.
    #[must_use]
    pub fn withdraw_frame(&self) -> Option<Extent<Ballooned>> {
        self.withdraw(Order::FRAME)
    }

    fn withdraw(&self, order: Order) -> Option<Extent<Ballooned>> {
        self.locked(|buddy| {
            let index = buddy.withdraw(usize::from(order.get()))?;
            self.entry(index).set(Head::Ballooned { order: order.get() });
            Some(Extent::new(self.gfn(index), order, Contents::Unknown, self.id))
        })
    }

    /// Makes an extent free that has memory again. What the hypervisor put there is unknown.
    ///
    /// # Errors
    ///
    /// [`Rejected`] with the token, if it belongs to another allocator.
    ///
    /// # Safety
    ///
    /// Every frame of the extent has memory: a populate has counted it since it went into the balloon, or it never
    /// left. Whoever is given one of these frames next puts objects there, and a hole keeps none.
    #[expect(unsafe_code, reason = "declares that there must be memory")]
    pub unsafe fn give_back(&self, extent: Extent<Ballooned>) -> Result<(), Rejected<Ballooned>> {
        match self.check_ballooned(&extent) {
            Err(misuse) => Err(self.reject(misuse, extent)),
            Ok(index) => {
                let class = Use::Ballooning.class();
                self.locked(|buddy| {
                    buddy.unlend(index, usize::from(extent.order().get()), class);
                    self.put(buddy, index, extent.order(), class, Contents::Unknown);
                });
                extent.consume();
                Ok(())
            }
        }
    }

    /// Puts an extent that has memory again straight to use, so that nobody else gets it first.
    ///
    /// # Errors
    ///
    /// [`Rejected`] with the token, if it belongs to another allocator.
    ///
    /// # Safety
    ///
    /// As for [`give_back`](Self::give_back).
    #[expect(unsafe_code, reason = "declares that there must be memory")]
    pub unsafe fn reuse(
        &self,
        extent: Extent<Ballooned>,
        usage: Use,
        owner: Owner,
    ) -> Result<Extent, Rejected<Ballooned>> {
        match self.check_ballooned(&extent) {
            Err(misuse) => Err(self.reject(misuse, extent)),
            Ok(index) => {
                let order = extent.order().get();
                self.locked(|buddy| {
                    buddy.unlend(index, usize::from(order), usage.class());
                    self.entry(index).set(Head::Used { usage, order, detached: false, owner });
                });
                Ok(turn(extent))
            }
        }
    }

    /// Splits a ballooned extent into its lower and its upper half.
    ///
    /// # Errors
    ///
    /// [`Rejected`] for a single frame, or a token of another allocator.
    pub fn split_ballooned(
        &self,
        extent: Extent<Ballooned>,
    ) -> Result<(Extent<Ballooned>, Extent<Ballooned>), Rejected<Ballooned>> {
        let checked = self.check_ballooned(&extent);
        self.halve(extent, checked, Contents::Unknown, |order| Head::Ballooned { order })
    }

    pub(super) fn split_as(&self, extent: Extent, contents: Contents) -> Result<(Extent, Extent), Rejected> {
        match self.check(&extent) {
            Err(misuse) => Err(self.reject(misuse, extent)),
            Ok((index, usage, owner)) => self.halve(extent, Ok(index), contents, |order| Head::Used {
                usage,
                order,
                detached: false,
                owner,
            }),
        }
    }

    fn halve<S: State>(
        &self,
        extent: Extent<S>,
        checked: Result<u32, Misuse>,
        contents: Contents,
        head: impl Fn(u8) -> Head,
    ) -> Result<(Extent<S>, Extent<S>), Rejected<S>> {
        let first = extent.first();
        let index = match checked {
            Ok(index) => index,
            Err(misuse) => return Err(self.reject(misuse, extent)),
        };
        let Some(half) = extent.order().get().checked_sub(1).and_then(Order::new) else {
            return Err(self.reject(Misuse::Indivisible(first), extent));
        };
        let middle = first + half.frames();
        // The counters are in frames and do not change; the lock keeps `validate` from seeing one half.
        self.locked(|_| {
            self.entry(index + half.frames().get() as u32).set(head(half.get()));
            self.entry(index).set(head(half.get()));
        });
        extent.consume();
        Ok((Extent::new(first, half, contents, self.id), Extent::new(middle, half, contents, self.id)))
    }

    fn check_ballooned(&self, extent: &Extent<Ballooned>) -> Result<u32, Misuse> {
        let first: Gfn = extent.first();
        if extent.allocator() != self.id {
            return Err(Misuse::Foreign(first));
        }
        let index = self.index(first).ok_or(Misuse::NotManaged(first))?;
        match self.entry(index).get() {
            Head::Ballooned { order } if order == extent.order().get() => Ok(index),
            Head::Ballooned { order } => {
                let held = Order::new(order).unwrap_or(Order::MAX);
                Err(Misuse::WrongOrder { frame: first, given: extent.order(), held })
            }
            _ => Err(Misuse::NotAllocated(first)),
        }
    }
}

/// The same extent in another state; the table has been told.
fn turn<A: State, B: State>(extent: Extent<A>) -> Extent<B> {
    let turned = Extent::new(extent.first(), extent.order(), Contents::Unknown, extent.allocator());
    extent.consume();
    turned
}
