//! From which swap devices pages come home: the arithmetic of Linux's `frontswap_shrink`.
//!
//! Given the pages that each device has in frontswap, in order of priority, and how many should remain, the
//! original picks *one* device: the first for whose share the memory-overcommit check passes. It asks that device
//! for the whole excess, or, when the device has no more than that, for "all" it has. So a first device that is
//! empty is asked for "all" of nothing, while a later one holds the pages; and no call ever empties more than one.
//! [`plan`] passes over empty devices and goes on to the next until the excess, or the room, is used up.

/// What the original asks of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Everything it has (a count of 0 in the original's call).
    All,
    /// This many pages.
    Pages(u64),
}

/// The original's choice: the device and its share; `None` if there is no excess, or no device passes the check.
///
/// `counts` are the pages of each device; `room_frames` is how much the overcommit check would grant.
#[must_use]
pub fn compatible(counts: &[u64], keep_frames: u64, room_frames: u64) -> Option<(usize, Share)> {
    let excess = total(counts).checked_sub(keep_frames).filter(|excess| *excess > 0)?;
    counts.iter().enumerate().find_map(|(device, &count)| {
        let (pages, share) =
            if excess < count { (excess, Share::Pages(excess)) } else { (count, Share::All) };
        (pages <= room_frames).then_some((device, share))
    })
}

/// How many pages come home from each device: `(device, pages)`, pages never 0. Their sum is the excess over
/// `keep_frames`, or `room_frames` if that is less.
pub fn plan(counts: &[u64], keep_frames: u64, room_frames: u64) -> impl Iterator<Item = (usize, u64)> {
    let mut left = total(counts).saturating_sub(keep_frames).min(room_frames);
    counts.iter().enumerate().filter_map(move |(device, &count)| {
        let pages = count.min(left);
        left -= pages;
        (pages > 0).then_some((device, pages))
    })
}

fn total(counts: &[u64]) -> u64 {
    counts.iter().fold(0, |sum: u64, &count| sum.saturating_add(count))
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::{Share, compatible, plan};

    fn planned(counts: &[u64], keep: u64, room: u64) -> Vec<(usize, u64)> {
        plan(counts, keep, room).collect()
    }

    #[test]
    fn nothing_to_do() {
        for counts in [&[][..], &[0, 0], &[10, 20]] {
            assert_eq!(compatible(counts, 30, u64::MAX), None);
            assert_eq!(planned(counts, 30, u64::MAX), []);
        }
    }

    #[test]
    fn the_original_asks_one_device_and_the_plan_goes_on() {
        assert_eq!(compatible(&[100, 50], 120, u64::MAX), Some((0, Share::Pages(30))));
        assert_eq!(planned(&[100, 50], 120, u64::MAX), [(0, 30)]);

        assert_eq!(compatible(&[100, 50], 10, u64::MAX), Some((0, Share::All)));
        assert_eq!(planned(&[100, 50], 10, u64::MAX), [(0, 100), (1, 40)]);
    }

    #[test]
    fn the_original_asks_an_empty_device_and_the_plan_passes_over_it() {
        assert_eq!(compatible(&[0, 50], 10, u64::MAX), Some((0, Share::All)));
        assert_eq!(planned(&[0, 50], 10, u64::MAX), [(1, 40)]);
    }

    #[test]
    fn without_room_the_original_tries_the_next_device_and_the_plan_takes_what_fits() {
        assert_eq!(compatible(&[100, 5], 10, 20), Some((1, Share::All)));
        assert_eq!(compatible(&[100, 50], 10, 20), None);
        assert_eq!(planned(&[100, 50], 10, 20), [(0, 20)]);
        assert_eq!(planned(&[100, 50], 10, 0), []);
    }

    #[test]
    fn absurd_counts_do_not_overflow() {
        assert_eq!(compatible(&[u64::MAX, u64::MAX], 0, u64::MAX), Some((0, Share::All)));
        assert_eq!(planned(&[u64::MAX, u64::MAX], 0, u64::MAX), [(0, u64::MAX)]);
    }
}
