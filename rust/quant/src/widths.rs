//! Codes of a byte each as rows of 1 to 7 bits a code (see [`crate::pack`]), and back.
//!
//! Eight codes are one 64-bit number. In three steps neighbours move together: codes to pairs, pairs to fours, fours to
//! eight, which are then as many bytes as a code has bits. The compiler makes vectors of that.

use crate::pack::{pack, unpack};
use crate::simd::dispatch;

/// Numbers in a vector at the highest level.
const NUMBERS: usize = 8;

/// Write `codes`, which have nothing above `width` bits, as a row of bits.
pub fn narrow(codes: &[u8], width: u32, out: &mut [u8]) {
    match width {
        1 => narrow_to::<1>(codes, out),
        2 => narrow_to::<2>(codes, out),
        3 => narrow_to::<3>(codes, out),
        4 => narrow_to::<4>(codes, out),
        5 => narrow_to::<5>(codes, out),
        6 => narrow_to::<6>(codes, out),
        7 => narrow_to::<7>(codes, out),
        _ => unreachable!("a code of 8 bits is a byte"),
    }
}

/// Read a row of bits.
pub fn widen(row: &[u8], width: u32, codes: &mut [u8]) {
    match width {
        1 => widen_from::<1>(row, codes),
        2 => widen_from::<2>(row, codes),
        3 => widen_from::<3>(row, codes),
        4 => widen_from::<4>(row, codes),
        5 => widen_from::<5>(row, codes),
        6 => widen_from::<6>(row, codes),
        7 => widen_from::<7>(row, codes),
        _ => unreachable!("a code of 8 bits is a byte"),
    }
}

dispatch! { fn narrow_to<const W: usize>(codes: &[u8], out: &mut [u8]) = narrow_body; }
dispatch! { fn widen_from<const W: usize>(row: &[u8], codes: &mut [u8]) = widen_body; }

#[inline(always)]
fn narrow_body<const W: usize>(codes: &[u8], out: &mut [u8]) {
    let (groups, rest) = codes.as_chunks::<{ 8 * NUMBERS }>();
    let (rows, end) = out.split_at_mut(groups.len() * NUMBERS * W);
    for (codes, row) in groups.iter().zip(rows.chunks_exact_mut(NUMBERS * W)) {
        let mut numbers = [0u64; NUMBERS];
        for (number, codes) in numbers.iter_mut().zip(codes.as_chunks().0) {
            *number = together(u64::from_le_bytes(*codes), W);
        }
        for (number, row) in numbers.iter().zip(row.as_chunks_mut::<W>().0) {
            row.copy_from_slice(&number.to_le_bytes()[..W]);
        }
    }
    pack(&rest.iter().map(|c| u32::from(*c)).collect::<Vec<u32>>(), W as u32, end);
}

#[inline(always)]
fn widen_body<const W: usize>(row: &[u8], codes: &mut [u8]) {
    let (groups, rest) = codes.as_chunks_mut::<{ 8 * NUMBERS }>();
    let (rows, end) = row.split_at(groups.len() * NUMBERS * W);
    for (codes, row) in groups.iter_mut().zip(rows.chunks_exact(NUMBERS * W)) {
        let mut numbers = [0u64; NUMBERS];
        for (number, row) in numbers.iter_mut().zip(row.as_chunks::<W>().0) {
            let mut bytes = [0; 8];
            bytes[..W].copy_from_slice(row);
            *number = apart(u64::from_le_bytes(bytes), W);
        }
        for (number, codes) in numbers.iter().zip(codes.as_chunks_mut().0) {
            *codes = number.to_le_bytes();
        }
    }
    let mut wide = vec![0u32; rest.len()];
    unpack(end, W as u32, &mut wide);
    rest.iter_mut().zip(wide).for_each(|(c, w)| *c = w as u8);
}

#[inline(always)]
fn together(x: u64, w: usize) -> u64 {
    let pairs = x & 0x00ff_00ff_00ff_00ff | (x >> 8 & 0x00ff_00ff_00ff_00ff) << w;
    let fours = pairs & 0x0000_ffff_0000_ffff | (pairs >> 16 & 0x0000_ffff_0000_ffff) << (2 * w);
    fours & 0xffff_ffff | fours >> 32 << (4 * w)
}

#[inline(always)]
fn apart(x: u64, w: usize) -> u64 {
    let low = |bits: usize| (1u64 << bits) - 1;
    let fours = x & low(4 * w) | x >> (4 * w) << 32;
    let pair = low(2 * w) * 0x0000_0001_0000_0001;
    let pairs = fours & pair | (fours >> (2 * w) & pair) << 16;
    let code = low(w) * 0x0001_0001_0001_0001;
    pairs & code | (pairs >> w & code) << 8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::row_bytes;
    use dither_numerics::random::random_bits;

    #[test]
    fn rows_are_those_of_pack() {
        for width in 1..=7u32 {
            for n in [0usize, 1, 7, 8, 63, 64, 65, 200, 256] {
                let wide: Vec<u32> = (0..n).map(|i| random_bits(4, u64::from(width), i as u64, width)).collect();
                let codes: Vec<u8> = wide.iter().map(|c| *c as u8).collect();
                let (mut row, mut want) =
                    (vec![0; row_bytes(n, width).unwrap()], vec![0; row_bytes(n, width).unwrap()]);
                narrow(&codes, width, &mut row);
                pack(&wide, width, &mut want);
                assert_eq!(row, want, "width {width}, {n} codes");
                let mut back = vec![0xff; n];
                widen(&row, width, &mut back);
                assert_eq!(back, codes, "width {width}, {n} codes");
            }
        }
    }
}
