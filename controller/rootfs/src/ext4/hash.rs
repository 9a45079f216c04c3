//! The hash of names in indexed directories: half MD4 over unsigned bytes, as in the kernel's `fs/ext4/hash.c`.

const K2: u32 = 0x5a82_7999;
const K3: u32 = 0x6ed9_eba1;

/// The hash of a name. The lowest bit is always clear: the index uses it to mark collisions that go on.
pub(crate) fn half_md4(name: &[u8], seed: &[u8; 16]) -> u32 {
    let mut state = [0; 4];
    for (word, bytes) in state.iter_mut().zip(seed.chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    let mut rest = name;
    while !rest.is_empty() {
        transform(&mut state, &words(rest));
        rest = &rest[rest.len().min(32)..];
    }
    match state[1] & !1 {
        // Reserved: the end of a directory, as a position.
        0xffff_fffe => 0xffff_fffc,
        hash => hash,
    }
}

/// The next 32 bytes as eight words, filled up with the length of what is left.
fn words(rest: &[u8]) -> [u32; 8] {
    let length = rest.len() as u32;
    let mut pad = length | (length << 8);
    pad |= pad << 16;
    let mut out = [pad; 8];
    for (word, bytes) in out.iter_mut().zip(rest.chunks(4)) {
        *word = bytes.iter().fold(pad, |value, &byte| u32::from(byte).wrapping_add(value << 8));
    }
    out
}

fn transform(state: &mut [u32; 4], input: &[u32; 8]) {
    let f = |x: u32, y: u32, z: u32| z ^ (x & (y ^ z));
    let g = |x: u32, y: u32, z: u32| (x & y).wrapping_add((x ^ y) & z);
    let h = |x: u32, y: u32, z: u32| x ^ y ^ z;
    let mut s = *state;
    // Each step changes one word and the four take turns: a, d, c, b.
    let mut round = |function: &dyn Fn(u32, u32, u32) -> u32, order: [usize; 8], constant: u32, shifts: [u32; 4]| {
        for (step, word) in order.into_iter().enumerate() {
            let a = (4 - step % 4) % 4;
            let (b, c, d) = ((a + 1) % 4, (a + 2) % 4, (a + 3) % 4);
            let sum = s[a].wrapping_add(function(s[b], s[c], s[d])).wrapping_add(input[word].wrapping_add(constant));
            s[a] = sum.rotate_left(shifts[step % 4]);
        }
    };
    round(&f, [0, 1, 2, 3, 4, 5, 6, 7], 0, [3, 7, 11, 19]);
    round(&g, [1, 3, 5, 7, 0, 2, 4, 6], K2, [3, 5, 9, 13]);
    round(&h, [3, 7, 2, 6, 1, 5, 0, 4], K3, [3, 9, 11, 15]);
    for (word, add) in state.iter_mut().zip(s) {
        *word = word.wrapping_add(add);
    }
}
