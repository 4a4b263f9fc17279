//! Floating-point arrays in memory: fp32, bf16, fp16 and fp64, read as fp32.

/// A borrowed array.
#[derive(Clone, Copy)]
pub enum Values {
    F32(*const f32),
    Bf16(*const u16),
    F16(*const u16),
    /// Rounded to fp32 (to nearest even) as it is read.
    F64(*const f64),
}

// SAFETY: threads only read the memory; the caller of each kernel keeps it alive.
unsafe impl Sync for Values {}
// SAFETY: as above; a pointer carries no thread affinity.
unsafe impl Send for Values {}

#[inline(always)]
fn bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Exact: the 15 bits after the sign, moved to their place in fp32, are 2^-112 of the value; infinities and NaN keep
/// the greatest exponent.
#[inline(always)]
fn f16(bits: u16) -> f32 {
    let moved = u32::from(bits & 0x7fff) << 13;
    let scaled = f32::from_bits(moved) * f32::from_bits((127 + 112) << 23);
    let special = f32::from_bits(moved | 0x7f80_0000);
    let value = if moved >= 0x7c00 << 13 { special } else { scaled };
    f32::from_bits(value.to_bits() | (u32::from(bits & 0x8000) << 16))
}

impl Values {
    /// Copy elements `start..start + out.len()`.
    ///
    /// # Safety
    /// They lie in the array and nobody writes them meanwhile.
    #[inline(always)]
    pub unsafe fn load(&self, start: usize, out: &mut [f32]) {
        // SAFETY: the caller's contract, for every arm.
        unsafe {
            match self {
                Values::F32(p) => std::ptr::copy_nonoverlapping(p.add(start), out.as_mut_ptr(), out.len()),
                Values::Bf16(p) => fill(out, std::slice::from_raw_parts(p.add(start), out.len()), bf16),
                Values::F16(p) => fill(out, std::slice::from_raw_parts(p.add(start), out.len()), f16),
                Values::F64(p) => fill(out, std::slice::from_raw_parts(p.add(start), out.len()), |x| x as f32),
            }
        }
    }

    /// The same elements where they are, if they are fp32, else copied to `scratch`.
    ///
    /// # Safety
    /// As for [`Values::load`].
    #[inline(always)]
    pub unsafe fn view<'a>(&self, start: usize, scratch: &'a mut [f32]) -> &'a [f32] {
        // SAFETY: the caller's contract.
        unsafe {
            if let Values::F32(p) = self {
                return std::slice::from_raw_parts(p.add(start), scratch.len());
            }
            self.load(start, scratch);
        }
        scratch
    }

    /// Ask for the cache line of an element, which may lie beyond the array.
    #[inline(always)]
    pub fn prefetch(&self, index: usize) {
        let address = match self {
            Values::F32(p) => p.wrapping_add(index).cast::<i8>(),
            Values::Bf16(p) | Values::F16(p) => p.wrapping_add(index).cast(),
            Values::F64(p) => p.wrapping_add(index).cast(),
        };
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads nothing, whatever the address.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address)
        };
        #[cfg(not(target_arch = "x86_64"))]
        let _ = address;
    }

    /// # Safety
    /// `index` lies in the array.
    #[inline(always)]
    pub unsafe fn get(&self, index: usize) -> f32 {
        let mut one = [0.0];
        // SAFETY: the caller's contract.
        unsafe { self.load(index, &mut one) };
        one[0]
    }
}

#[inline(always)]
fn fill<T: Copy>(out: &mut [f32], x: &[T], value: impl Fn(T) -> f32) {
    for (y, x) in out.iter_mut().zip(x) {
        *y = value(*x);
    }
}

#[cfg(test)]
mod tests {
    use super::f16;

    #[test]
    fn fp16_is_read_exactly() {
        for (bits, value) in
            [(0x0001, 2f32.powi(-24)), (0x03ff, 1023.0 * 2f32.powi(-24)), (0x3c00, 1.0), (0xfbff, -65504.0)]
        {
            assert_eq!(f16(bits), value);
        }
        assert_eq!((f16(0x7c00), f16(0xfc00)), (f32::INFINITY, f32::NEG_INFINITY));
        assert!(f16(0x7e01).is_nan() && f16(0x8000).is_sign_negative());
    }
}
