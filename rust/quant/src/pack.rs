//! Codes of any width as a row of bits, least significant bit first: element `i` of a row occupies bits
//! `i * width .. (i + 1) * width`, where bit `k` is bit `k % 8` of byte `k / 8`. A row ends at a byte; the bits that fill
//! it up are 0. (Two FP4 codes a byte: the first element in the low half, as OCP MX tools and safetensors' F4 have it.)

/// Bytes of a row of `n` codes. `None` where they overflow.
pub fn row_bytes(n: usize, width: u32) -> Option<usize> {
    let bits = n.checked_mul(width as usize)?;
    Some(bits / 8 + usize::from(bits % 8 != 0))
}

/// Write the codes of a row, or of a part of it that starts at a byte; `out` is as long as they need.
pub fn pack(codes: &[u32], width: u32, out: &mut [u8]) {
    debug_assert_eq!(Some(out.len()), row_bytes(codes.len(), width));
    match width {
        8 => out.iter_mut().zip(codes).for_each(|(o, c)| *o = *c as u8),
        4 => {
            for (o, c) in out.iter_mut().zip(codes.chunks(2)) {
                *o = (c[0] & 15) as u8 | (c.get(1).copied().unwrap_or(0) << 4) as u8;
            }
        }
        16 => out.chunks_exact_mut(2).zip(codes).for_each(|(o, c)| o.copy_from_slice(&(*c as u16).to_le_bytes())),
        _ => pack_any(codes, width, out),
    }
}

/// Eight codes fill `width` whole bytes.
fn pack_any(codes: &[u32], width: u32, out: &mut [u8]) {
    let mask = u64::from(u32::MAX >> (32 - width));
    for (codes, out) in codes.chunks(8).zip(out.chunks_mut(width as usize)) {
        let (mut bits, mut held, mut at) = (0u64, 0, 0);
        for code in codes {
            bits |= (u64::from(*code) & mask) << held;
            held += width;
            while held >= 8 {
                out[at] = bits as u8;
                (bits, held, at) = (bits >> 8, held - 8, at + 1);
            }
        }
        if held > 0 {
            out[at] = bits as u8;
        }
    }
}

/// Read the codes of a row, or of a part of it that starts at a byte.
pub fn unpack(bytes: &[u8], width: u32, codes: &mut [u32]) {
    debug_assert_eq!(Some(bytes.len()), row_bytes(codes.len(), width));
    match width {
        8 => codes.iter_mut().zip(bytes).for_each(|(c, b)| *c = u32::from(*b)),
        4 => {
            for (c, b) in codes.chunks_mut(2).zip(bytes) {
                c[0] = u32::from(b & 15);
                if let Some(second) = c.get_mut(1) {
                    *second = u32::from(b >> 4);
                }
            }
        }
        16 => {
            let pairs = bytes.as_chunks::<2>().0;
            codes.iter_mut().zip(pairs).for_each(|(c, b)| *c = u32::from(u16::from_le_bytes(*b)));
        }
        _ => unpack_any(bytes, width, codes),
    }
}

fn unpack_any(bytes: &[u8], width: u32, codes: &mut [u32]) {
    let mask = u64::from(u32::MAX >> (32 - width));
    for (bytes, codes) in bytes.chunks(width as usize).zip(codes.chunks_mut(8)) {
        let (mut bits, mut held, mut at) = (0u64, 0, 0);
        for code in codes {
            while held < width {
                bits |= u64::from(bytes[at]) << held;
                (held, at) = (held + 8, at + 1);
            }
            *code = (bits & mask) as u32;
            (bits, held) = (bits >> width, held - width);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dither_numerics::random::random_bits;

    #[test]
    fn every_width_and_length_survives_and_matches_its_definition() {
        for width in 1..=32u32 {
            for n in 0..40usize {
                let codes: Vec<u32> = (0..n).map(|i| random_bits(3, u64::from(width), i as u64, width)).collect();
                let mut bytes = vec![0xaa; row_bytes(n, width).unwrap()];
                pack(&codes, width, &mut bytes);
                for k in 0..bytes.len() * 8 {
                    let (i, bit) = (k / width as usize, k % width as usize);
                    let want = codes.get(i).map_or(0, |c| c >> bit & 1);
                    assert_eq!(u32::from(bytes[k / 8] >> (k % 8) & 1), want, "width {width}, {n} codes, bit {k}");
                }
                let mut back = vec![u32::MAX; n];
                unpack(&bytes, width, &mut back);
                assert_eq!(back, codes, "width {width}");
            }
        }
    }

    #[test]
    fn bits_above_the_width_do_not_leak() {
        for width in [3, 4, 8, 16] {
            let mut bytes = vec![0; row_bytes(3, width).unwrap()];
            pack(&[u32::MAX, 0, u32::MAX], width, &mut bytes);
            let mut back = [9; 3];
            unpack(&bytes, width, &mut back);
            let all = (1 << width) - 1;
            assert_eq!(back, [all, 0, all], "width {width}");
        }
    }
}
