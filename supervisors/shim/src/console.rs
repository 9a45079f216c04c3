//! The serial console: what of it matters to the host.

use microagent_guest_protocol::LISTENING_LINE;

/// How much of a line is looked at, in bytes. Guests may print lines without an end.
const MAX_LINE: usize = 1024;

/// What the kernel prints first when it gives up: kernel/panic.c.
const PANIC: &str = "Kernel panic - not syncing";

/// Something that the console told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// The first byte came: the machine executes instructions.
    Alive,
    /// Guest-init listens.
    Listening,
    /// The guest's kernel panicked; its words.
    Panic(String),
}

/// Finds signs in the bytes of a console. Each is told once.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    line: Vec<u8>,
    alive: bool,
    listening: bool,
    panicked: bool,
}

impl Scanner {
    pub(crate) fn scan(&mut self, bytes: &[u8], mut told: impl FnMut(Sign)) {
        if !self.alive && !bytes.is_empty() {
            self.alive = true;
            told(Sign::Alive);
        }
        for &byte in bytes {
            if byte != b'\n' {
                if self.line.len() < MAX_LINE {
                    self.line.push(byte);
                }
                continue;
            }
            let line = String::from_utf8_lossy(&self.line);
            if !self.listening && line.contains(LISTENING_LINE) {
                self.listening = true;
                told(Sign::Listening);
            }
            // Without the time before it: the same panic reads the same in every boot.
            if let Some(start) = line.find(PANIC).filter(|_| !self.panicked) {
                self.panicked = true;
                told(Sign::Panic(line[start..].chars().filter(|c| !c.is_control()).collect()));
            }
            self.line.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signs(pieces: &[&[u8]]) -> Vec<Sign> {
        let mut scanner = Scanner::default();
        let mut signs = Vec::new();
        for piece in pieces {
            scanner.scan(piece, |s| signs.push(s));
        }
        signs
    }

    #[test]
    fn signs_are_found_across_pieces_and_told_once() {
        let line = format!("{LISTENING_LINE}\r\n");
        let (a, b) = line.split_at(9);
        assert_eq!(signs(&[b"boot\r\n", a.as_bytes(), b.as_bytes(), line.as_bytes()]), [Sign::Alive, Sign::Listening]);
    }

    #[test]
    fn a_panic_is_told_in_the_kernels_words() {
        let found = signs(&[b"[    1.0] Kernel panic - not syncing: no init\r\n"]);
        assert_eq!(found[1], Sign::Panic("Kernel panic - not syncing: no init".to_owned()));
    }

    #[test]
    fn a_line_without_an_end_takes_bounded_memory() {
        let mut scanner = Scanner::default();
        for _ in 0..100 {
            scanner.scan(&[b'x'; 4096], |_| {});
        }
        assert!(scanner.line.capacity() <= 2 * MAX_LINE);
    }
}
