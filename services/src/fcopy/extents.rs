//! Keeps track of the written bytes of a file.

use std::iter;
use std::ops::Range;

/// Most separate parts that are tracked. A host that sends in any sensible order needs a
/// handful; the limit bounds memory and search time if it is hostile.
const MAX_PARTS: usize = 4096;

/// More than [`MAX_PARTS`] separate parts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooManyParts;

/// The written bytes: all up to `head`, and separate parts after it. Parts in order only
/// advance `head`.
#[derive(Debug, Default)]
pub(super) struct Extents {
    head: u64,
    /// Sorted and not empty; they touch neither each other nor `head`.
    parts: Vec<Range<u64>>,
}

impl Extents {
    /// Number of bytes from the start of the file to the first hole.
    pub(super) fn head(&self) -> u64 {
        self.head
    }

    /// End of the last part.
    pub(super) fn end(&self) -> u64 {
        self.parts.last().map_or(self.head, |part| part.end)
    }

    /// The first hole, if there is one.
    pub(super) fn hole(&self) -> Option<Range<u64>> {
        self.parts.first().map(|part| self.head..part.start)
    }

    /// Adds a written part.
    pub(super) fn insert(&mut self, part: Range<u64>) -> Result<(), TooManyParts> {
        if part.is_empty() {
            return Ok(());
        }
        if part.start <= self.head {
            self.head = self.head.max(part.end);
            let reached = self.parts.partition_point(|other| other.start <= self.head);
            if let Some(last) = self.parts.drain(..reached).next_back() {
                self.head = self.head.max(last.end);
            }
            return Ok(());
        }
        let first = self.parts.partition_point(|other| other.end < part.start);
        let behind = self.parts.partition_point(|other| other.start <= part.end);
        if first == behind && self.parts.len() == MAX_PARTS {
            return Err(TooManyParts);
        }
        let touched = self.parts.get(first..behind).unwrap_or_default();
        let start = touched
            .first()
            .map_or(part.start, |other| other.start.min(part.start));
        let end = touched
            .last()
            .map_or(part.end, |other| other.end.max(part.end));
        self.parts.splice(first..behind, iter::once(start..end));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_in_order_need_no_memory() {
        let mut extents = Extents::default();
        for start in (0..1000).step_by(10) {
            assert_eq!(extents.insert(start..start + 10), Ok(()));
        }
        assert_eq!(extents.head(), 1000);
        assert_eq!(extents.hole(), None);
        assert_eq!(extents.parts.capacity(), 0);
    }

    #[test]
    fn too_many_parts_are_refused() {
        let mut extents = Extents::default();
        let mut start = 1;
        for _ in 0..MAX_PARTS {
            assert_eq!(extents.insert(start..start + 1), Ok(()));
            start += 2;
        }
        assert_eq!(extents.insert(start..start + 1), Err(TooManyParts));
        // A part that joins two others is still accepted, and makes room.
        assert_eq!(extents.insert(2..3), Ok(()));
        assert_eq!(extents.insert(start..start + 1), Ok(()));
    }

    #[test]
    fn offsets_up_to_the_maximum_are_accepted() {
        let mut extents = Extents::default();
        assert_eq!(extents.insert(u64::MAX - 1..u64::MAX), Ok(()));
        assert_eq!(extents.hole(), Some(0..u64::MAX - 1));
    }

    proptest! {
        #[test]
        fn extents_equal_a_list_of_bytes(
            writes in proptest::collection::vec((0..120usize, 0..16usize), 0..60)
        ) {
            let mut extents = Extents::default();
            let mut bytes = [false; 140];
            for (start, len) in writes {
                bytes.iter_mut().skip(start).take(len).for_each(|byte| *byte = true);
                prop_assert_eq!(extents.insert(start as u64..(start + len) as u64), Ok(()));

                let head = bytes.iter().take_while(|&&byte| byte).count();
                let gap = bytes.iter().skip(head).take_while(|&&byte| !byte).count();
                let hole = (head + gap < bytes.len())
                    .then(|| head as u64..(head + gap) as u64);
                prop_assert_eq!(extents.head(), head as u64);
                prop_assert_eq!(extents.hole(), hole);
                let kept: u64 = extents.parts.iter().map(|part| part.end - part.start).sum();
                prop_assert_eq!(kept + head as u64, bytes.iter().filter(|&&byte| byte).count() as u64);
            }
        }
    }
}
