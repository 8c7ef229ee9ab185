//! Which places of a text may begin what is searched for: sixty-four at a time, by vector instructions where the
//! processor has them.
//!
//! Four bytes in a row are looked up by their halves, each byte in a table of its own place, which says for eight
//! groups at once whether it may stand there in one of the group (Hyperscan's "shufti", four bytes wide). Where all
//! four may, in one group, the place is named; it need not be one. Bytes of a class are told exactly.
//!
//! Nothing here decides anything.

use zeroize::{DefaultIsZeroes, Zeroize};

/// How many bytes in a row are looked at.
pub const WIDTH: usize = 4;
/// How many places are looked at in one call.
pub const RUN: usize = 512;
/// The places of a run, and the bytes that the last of them needs.
pub type Run = [u8; RUN + WIDTH - 1];
/// Places of a run, one bit each, the first lowest.
pub type Places = [u64; RUN / 64];

/// Two tables, by the lower and by the higher half of a byte: in which of eight groups it may be. It is in those that
/// both name.
#[derive(Debug, Clone, Copy, Default)]
pub struct Halves {
    low: [u8; 16],
    high: [u8; 16],
}

impl Halves {
    /// Puts a byte into a group, of eight; perhaps others with it.
    pub fn add(&mut self, byte: u8, group: usize) {
        let flag = 1 << (group % 8);
        let halves = [(&mut self.low, byte & 15), (&mut self.high, byte >> 4)];
        for (table, half) in halves {
            table.iter_mut().skip(usize::from(half)).take(1).for_each(|groups| *groups |= flag);
        }
    }

    /// The groups in which a byte may be, one bit each.
    #[must_use]
    pub fn groups(&self, byte: u8) -> u8 {
        let look = |table: &[u8; 16], half: u8| table.get(usize::from(half)).copied().unwrap_or(0xff);
        look(&self.low, byte & 15) & look(&self.high, byte >> 4)
    }
}

impl DefaultIsZeroes for Halves {}

/// What each of four bytes in a row may be, in eight groups.
pub type Beginnings = [Halves; WIDTH];

/// What is looked for.
#[derive(Debug, Default)]
pub struct Sought {
    /// Where one of these may begin.
    pub beginnings: Vec<Beginnings>,
    /// And where a byte of any of these groups is.
    pub class: Halves,
}

impl Zeroize for Sought {
    fn zeroize(&mut self) {
        self.beginnings.zeroize();
        self.class.zeroize();
    }
}

/// What was found: where something may begin, and where a byte of the class is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    /// Where one of [`Sought::beginnings`] may begin.
    pub beginnings: Places,
    /// Where a byte of [`Sought::class`] is.
    pub class: Places,
}

/// Looks at so many places of a run, and some more to a full sixty-four; `None` where this processor cannot.
#[must_use]
pub fn sift(sought: &Sought, run: &Run, places: usize) -> Option<Found> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has what the function needs, which is all that it asks.
        // JUSTIFICATION: the compiler cannot know that.
        return Some(unsafe { avx2::sift(sought, run, places.div_ceil(64)) });
    }
    let _ = (sought, run, places);
    None
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm_set_epi64x, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_cmpeq_epi8,
        _mm256_movemask_epi8, _mm256_set1_epi8, _mm256_setr_epi64x, _mm256_setzero_si256, _mm256_shuffle_epi8,
        _mm256_srli_epi16,
    };

    use super::{Found, Halves, Run, Sought, WIDTH};

    /// [`Halves`], twice each.
    struct Tables {
        low: __m256i,
        high: __m256i,
    }

    impl Tables {
        #[target_feature(enable = "avx2")]
        #[inline]
        fn new(halves: &Halves) -> Self {
            Self { low: twice(&halves.low), high: twice(&halves.high) }
        }

        /// The groups in which each byte may be.
        #[target_feature(enable = "avx2")]
        #[inline]
        fn groups(&self, bytes: __m256i) -> __m256i {
            let halves = _mm256_set1_epi8(15);
            let low = _mm256_shuffle_epi8(self.low, _mm256_and_si256(bytes, halves));
            let high = _mm256_shuffle_epi8(self.high, _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), halves));
            _mm256_and_si256(low, high)
        }
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn sift(sought: &Sought, run: &Run, blocks: usize) -> Found {
        let mut found = Found::default();
        let class = Tables::new(&sought.class);
        for (block, places) in found.class.iter_mut().take(blocks).enumerate() {
            let at = 64 * block;
            *places = both(named(class.groups(load(run, at))), named(class.groups(load(run, at + 32))));
        }
        for [one, two, three, four] in &sought.beginnings {
            let tables = [Tables::new(one), Tables::new(two), Tables::new(three), Tables::new(four)];
            for (block, places) in found.beginnings.iter_mut().take(blocks).enumerate() {
                let at = 64 * block;
                *places |= both(named(begun(&tables, run, at)), named(begun(&tables, run, at + 32)));
            }
        }
        found
    }

    /// The groups of which one may begin at each of the places from `at` on.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn begun([one, two, three, four]: &[Tables; WIDTH], run: &Run, at: usize) -> __m256i {
        let first = _mm256_and_si256(one.groups(load(run, at)), two.groups(load(run, at + 1)));
        let last = _mm256_and_si256(three.groups(load(run, at + 2)), four.groups(load(run, at + 3)));
        _mm256_and_si256(first, last)
    }

    /// The places that have a group.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn named(groups: __m256i) -> u32 {
        !_mm256_movemask_epi8(_mm256_cmpeq_epi8(groups, _mm256_setzero_si256())).cast_unsigned()
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn both(first: u32, last: u32) -> u64 {
        u64::from(first) | u64::from(last) << 32
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn load(run: &Run, at: usize) -> __m256i {
        let bytes: &[u8; 32] = run.get(at..).and_then(|rest| rest.first_chunk()).unwrap_or(&[0; 32]);
        let (halves, _) = bytes.as_chunks::<8>();
        let number = |place: usize| halves.get(place).map_or(0, |half| i64::from_le_bytes(*half));
        _mm256_setr_epi64x(number(0), number(1), number(2), number(3))
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn twice(table: &[u8; 16]) -> __m256i {
        let number = u128::from_le_bytes(*table).cast_signed();
        _mm256_broadcastsi128_si256(_mm_set_epi64x((number >> 64) as i64, number as i64))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What [`sift`] does, byte by byte.
    fn looked_up(sought: &Sought, run: &Run) -> Found {
        let mut found = Found::default();
        for place in 0..RUN {
            let mark = |places: &mut Places, is_so: bool| places[place / 64] |= u64::from(is_so) << (place % 64);
            mark(&mut found.class, sought.class.groups(run[place]) != 0);
            for beginnings in &sought.beginnings {
                let groups = (0..WIDTH).fold(0xff, |all, n| all & beginnings[n].groups(run[place + n]));
                mark(&mut found.beginnings, groups != 0);
            }
        }
        found
    }

    proptest! {
        #[test]
        fn vectors_say_what_the_tables_say(
            texts in prop::collection::vec(any::<[u8; WIDTH]>(), 0..24),
            class in prop::collection::vec(any::<u8>(), 0..4),
            bytes in prop::collection::vec(any::<u8>(), RUN + WIDTH - 1),
            from in prop::collection::vec((0..RUN, 0..24_usize), 0..40),
        ) {
            let mut sought = Sought::default();
            class.iter().enumerate().for_each(|(group, byte)| sought.class.add(*byte, group));
            for texts in texts.chunks(8) {
                let mut beginnings = Beginnings::default();
                for (group, text) in texts.iter().enumerate() {
                    beginnings.iter_mut().zip(text).for_each(|(halves, byte)| halves.add(*byte, group));
                }
                sought.beginnings.push(beginnings);
            }
            let mut run: Run = bytes.try_into().unwrap();
            for (place, number) in from {
                if let Some(text) = texts.get(number) {
                    run[place..place + WIDTH].copy_from_slice(text);
                }
            }
            let expected = looked_up(&sought, &run);
            for place in 0..RUN {
                let is_found = expected.beginnings[place / 64] >> (place % 64) & 1 == 1;
                prop_assert!(is_found || !texts.iter().any(|text| run[place..].starts_with(text)));
            }
            // Where it cannot be done by vectors, there is nothing to compare.
            if let Some(found) = sift(&sought, &run, RUN) {
                prop_assert!(found == expected);
                let first = sift(&sought, &run, 65).unwrap();
                prop_assert!((&first.class[..2], &first.class[2..]) == (&found.class[..2], &[0; 6][..]));
                prop_assert!(first.beginnings[..2] == found.beginnings[..2]);
            }
        }
    }
}
