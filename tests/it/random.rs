//! A seeded random sequence that is the same for ever, whatever becomes of the generators in a library: a seed that was
//! printed last year still repeats its test. SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
//! generators, 2014).

use rand::RngCore;

/// The sequence of one seed.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }
}

impl RngCore for Random {
    fn next_u32(&mut self) -> u32 {
        // The upper half is the better one.
        u32::try_from(self.next_u64() >> 32).unwrap_or_default()
    }

    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let random = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(random.get(..chunk.len()).unwrap_or_default());
        }
    }
}

#[test]
fn the_sequence_of_a_seed_is_known() {
    let mut random = Random::new(1_234_567);
    let first = [random.next_u64(), random.next_u64()];
    assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973], "the reference implementation's");
}
