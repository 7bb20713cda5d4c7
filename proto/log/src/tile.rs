//! Names of tiles and of bundles of entries, as C2SP `tlog-tiles` writes them. Knows nothing of what is in them.
//!
//! ```text
//! tile/<level>/<N>[.p/<width>]     hashes: level 0 of leaves, above of full tiles below
//! tile/entries/<N>[.p/<width>]     entries
//! N: groups of 3 digits, all but the last after an x: 1234067 is x001/x234/067
//! ```

use std::fmt;
use std::str::FromStr;

use crate::{MAX_SIZE, TILE_WIDTH};

/// What a tile holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum TileKind {
    /// Hashes of this level.
    Hashes(u8),
    /// Entries.
    Entries,
}

/// The name of a tile.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TilePath {
    kind: TileKind,
    index: u64,
    width: u16,
}

/// A text that names no tile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no tile")]
pub struct ParseTilePathError(String);

impl TilePath {
    /// Number `index` of its kind, with `width` hashes or entries; `None` unless the level is at most
    /// [`MAX_LEVEL`](Self::MAX_LEVEL), the index lies in a tree of at most [`MAX_SIZE`] leaves and the width is 1 to 256.
    pub fn new(kind: TileKind, index: u64, width: usize) -> Option<Self> {
        let last = MAX_SIZE.checked_shr(8 * (u32::from(kind.level()) + 1)).unwrap_or(0);
        let fits = kind.level() <= Self::MAX_LEVEL && index <= last;
        (fits && (1..=TILE_WIDTH).contains(&width)).then_some(Self { kind, index, width: width as u16 })
    }

    /// Highest level that a tree of at most [`MAX_SIZE`] leaves has: 256^7 is 2^56.
    pub const MAX_LEVEL: u8 = 7;

    /// Number `index` of its kind in a tree of `size` leaves: full, or as wide as the tree makes it; `None` if the tree
    /// has no such tile.
    pub fn in_tree(kind: TileKind, index: u64, size: u64) -> Option<Self> {
        if kind.level() > Self::MAX_LEVEL || size > MAX_SIZE {
            return None;
        }
        let hashes = size >> (8 * u32::from(kind.level()));
        let before = index.checked_mul(TILE_WIDTH as u64)?;
        let width = hashes.checked_sub(before)?.min(TILE_WIDTH as u64);
        Self::new(kind, index, width as usize)
    }

    /// What it holds.
    pub const fn kind(&self) -> TileKind {
        self.kind
    }

    /// Its number within its level.
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// How many hashes or entries it holds, 1 to 256.
    pub const fn width(&self) -> usize {
        self.width as usize
    }

    /// Whether it can't grow any more.
    pub const fn is_full(&self) -> bool {
        self.width as usize == TILE_WIDTH
    }

    /// The same tile once it is full.
    #[must_use]
    pub const fn full(self) -> Self {
        Self { width: TILE_WIDTH as u16, ..self }
    }
}

impl TileKind {
    /// The level in whose width it is counted: entries stand beside level 0.
    pub(crate) const fn level(self) -> u8 {
        match self {
            Self::Hashes(level) => level,
            Self::Entries => 0,
        }
    }
}

impl fmt::Display for TilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            TileKind::Hashes(level) => write!(f, "tile/{level}/")?,
            TileKind::Entries => f.write_str("tile/entries/")?,
        }
        let mut groups = vec![self.index % 1000];
        let mut rest = self.index / 1000;
        while rest > 0 {
            groups.push(rest % 1000);
            rest /= 1000;
        }
        for group in groups[1..].iter().rev() {
            write!(f, "x{group:03}/")?;
        }
        write!(f, "{:03}", groups[0])?;
        if self.is_full() { Ok(()) } else { write!(f, ".p/{}", self.width) }
    }
}

impl FromStr for TilePath {
    type Err = ParseTilePathError;

    fn from_str(text: &str) -> Result<Self, ParseTilePathError> {
        let error = || ParseTilePathError(text.chars().take(80).collect());
        // There is one way to write each: whatever else reads as a number is refused.
        parse(text).filter(|path| path.to_string() == text).ok_or_else(error)
    }
}

fn parse(text: &str) -> Option<TilePath> {
    // Seven groups of three digits hold every index.
    if text.len() > "tile/entries/".len() + 7 * 5 + ".p/255".len() {
        return None;
    }
    let (kind, rest) = text.strip_prefix("tile/")?.split_once('/')?;
    let kind = if kind == "entries" { TileKind::Entries } else { TileKind::Hashes(kind.parse().ok()?) };
    let (index, width) = match rest.split_once(".p/") {
        Some((index, width)) => (index, width.parse().ok().filter(|&width| width < TILE_WIDTH)?),
        None => (rest, TILE_WIDTH),
    };
    let mut number = 0u64;
    for group in index.split('/') {
        let digits = group.strip_prefix('x').unwrap_or(group);
        number = number.checked_mul(1000)?.checked_add(digits.parse::<u16>().ok()?.into())?;
    }
    TilePath::new(kind, number, width)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(kind: TileKind, index: u64, width: usize) -> TilePath {
        TilePath::new(kind, index, width).unwrap()
    }

    #[test]
    fn names_are_those_of_the_specification() {
        assert_eq!(path(TileKind::Hashes(0), 1_234_067, 256).to_string(), "tile/0/x001/x234/067");
        assert_eq!(path(TileKind::Entries, 0, 256).to_string(), "tile/entries/000");
        assert_eq!(path(TileKind::Hashes(2), 0, 1).to_string(), "tile/2/000.p/1");
        assert_eq!(path(TileKind::Entries, 273, 112).to_string(), "tile/entries/273.p/112");
        assert_eq!(path(TileKind::Hashes(0), 999, 255).to_string(), "tile/0/999.p/255");
        assert_eq!(path(TileKind::Hashes(0), 1000, 256).to_string(), "tile/0/x001/000");
    }

    #[test]
    fn a_tree_of_70_000_has_the_tiles_of_the_specification() {
        let width =
            |level, index| TilePath::in_tree(TileKind::Hashes(level), index, 70_000).map(|path| path.width());
        assert_eq!((width(0, 272), width(0, 273), width(0, 274)), (Some(256), Some(112), None));
        assert_eq!((width(1, 0), width(1, 1), width(1, 2)), (Some(256), Some(17), None));
        assert_eq!((width(2, 0), width(2, 1), width(3, 0)), (Some(1), None, None));
        assert_eq!(TilePath::in_tree(TileKind::Entries, u64::MAX, 70_000), None);
        assert_eq!(TilePath::in_tree(TileKind::Hashes(8), 0, MAX_SIZE), None);
        assert_eq!(TilePath::in_tree(TileKind::Hashes(0), 0, u64::MAX), None);
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "",
            "tile",
            "tile/",
            "tile/0",
            "tile/0/",
            "tile/0/0",
            "tile/0/00",
            "tile/0/0000",
            "tile/0/x000/001",
            "tile/0/001/002",
            "tile/0/x001/x002",
            "tile/0/x1/002",
            "tile/00/001",
            "tile/+1/001",
            "tile/0/+01",
            "tile/-1/001",
            "tile/8/000",
            "tile/256/000",
            "tile/0/001.p/0",
            "tile/0/001.p/01",
            "tile/0/001.p/256",
            "tile/0/001.p/",
            "tile/0/001.p/1/",
            "tile/0/001.p",
            "tile/Entries/001",
            "/tile/0/001",
            "tile/0/../001",
            "tile/0/x999/x999/x999/x999/x999/x999/999",
            "tile/7/001",
            "tile/0/x036/x028/x797/x018/x963/968",
        ] {
            assert!(text.parse::<TilePath>().is_err(), "{text}");
        }
        assert!("9".repeat(100_000).parse::<TilePath>().unwrap_err().to_string().len() < 120);
    }

    proptest! {
        #[test]
        fn names_are_read_as_written(level in 0u8..8, entries: bool, index: u64, width in 1usize..257) {
            let kind = if entries { TileKind::Entries } else { TileKind::Hashes(level) };
            let index = index >> (8 * kind.level() + 9).min(63);
            let index = if kind == TileKind::Hashes(7) { 0 } else { index };
            let path = path(kind, index, width);
            prop_assert_eq!(path.to_string().parse::<TilePath>().unwrap(), path);
        }

        #[test]
        fn no_text_panics(text in "(tile/)?[0-9a-z/.+]{0,40}") {
            if let Ok(path) = text.parse::<TilePath>() {
                prop_assert_eq!(path.to_string(), text);
            }
        }
    }
}
