//! Random choices from a seed that can be replayed.

/// How many rounds a random test has: `usual`, times `COUNTERFOIL_SOAK` where that is set.
pub fn rounds(usual: usize) -> usize {
    let times = std::env::var("COUNTERFOIL_SOAK").ok();
    times.map_or(usual, |text| {
        usual
            * text
                .trim()
                .parse::<usize>()
                .expect("COUNTERFOIL_SOAK is a whole number")
    })
}

/// A small generator (splitmix64): good enough to choose operations, and the same everywhere.
#[derive(Clone, Debug)]
pub struct Chance {
    state: u64,
}

impl Chance {
    /// A generator that gives the same choices for the same seed.
    pub fn new(seed: u64) -> Self {
        Chance { state: seed }
    }

    /// The seed of a random test: `COUNTERFOIL_SEED` where it is set, else one from the clock. It is
    /// printed, and so shown when the test fails.
    pub fn seed() -> u64 {
        let seed = match std::env::var("COUNTERFOIL_SEED") {
            Ok(text) => text
                .trim()
                .parse()
                .expect("COUNTERFOIL_SEED is a whole number"),
            Err(_) => {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                now.map_or(1, |since| since.as_nanos() as u64 % 1_000_000_007)
            }
        };
        println!("replay this run with COUNTERFOIL_SEED={seed}");
        seed
    }

    /// Any 64 bits.
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `limit - 1`; 0 where `limit` is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        if limit == 0 { 0 } else { self.number() % limit }
    }

    /// True `percent` times in a hundred.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len() as u64) as usize]
    }

    /// Bytes without zeros among them.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| 1 + self.below(255) as u8).collect()
    }

    /// Printable text without newlines.
    pub fn text(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| b' ' + self.below(95) as u8).collect()
    }
}
