//! Whole sessions of made-up swarms: honest ones, attacked ones, and their evidence as a file.

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod claims;
#[cfg(test)]
mod collected;
#[cfg(test)]
mod evidence_file;
#[cfg(test)]
mod honest;
#[cfg(test)]
mod openings;
#[cfg(test)]
mod swarm;
#[cfg(test)]
mod text;
