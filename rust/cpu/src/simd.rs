//! One source per loop, compiled for the vector instructions of several processors and chosen at run time.
//!
//! The loops are plain arithmetic over slices and fixed-size arrays; the compiler vectorizes each clone with what its
//! level allows. A multiply-add is fused where the source says so (`mul_add`, or an instruction of that name), and nowhere
//! else (Rust does not contract), so every level gives the same bits. (Without the instruction, the C library works
//! `mul_add` out: x86 processors before 2013 take many times as long there.)

use std::sync::atomic::{AtomicU8, Ordering};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    Baseline = 1,
    Avx2 = 2,
    Avx512 = 3,
}

static CURRENT: AtomicU8 = AtomicU8::new(0);

/// The best level of this machine.
pub fn detected() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! has {
            ($($feature:tt)*) => { $(std::arch::is_x86_feature_detected!($feature))&&* };
        }
        // All that functions of a level enable. Processors with AVX2 have the rest of its line; an emulated one need not.
        if has!("avx2" "fma" "f16c" "bmi1" "bmi2" "lzcnt" "popcnt") {
            return match has!("avx512f" "avx512bw" "avx512dq" "avx512vl") {
                true => Level::Avx512,
                false => Level::Avx2,
            };
        }
    }
    Level::Baseline
}

/// The level in use.
#[inline]
pub fn level() -> Level {
    match CURRENT.load(Ordering::Relaxed) {
        1 => Level::Baseline,
        2 => Level::Avx2,
        3 => Level::Avx512,
        _ => limit(Level::Avx512),
    }
}

/// Use at most this level (for tests that compare levels bit for bit). Returns the level now in use.
pub fn limit(level: Level) -> Level {
    let level = level.min(detected());
    CURRENT.store(level as u8, Ordering::Relaxed);
    level
}

/// Defines `fn name(args)` that runs the `#[inline(always)]` function `body` compiled for the level in use. A type
/// parameter stands in brackets, constants in angles: `fn name[E: Bound]<const N: usize>(..)`.
#[macro_export]
macro_rules! dispatch {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $([$t:ident : $bound:ident])? $(<$(const $c:ident : $ct:ty),+>)? ($($arg:ident : $ty:ty),* $(,)?) $(-> $out:ty)? = $body:ident;) => {
        $(#[$meta])*
        $vis fn $name <$($t: $bound,)? $($(const $c: $ct),+)?> ($($arg: $ty),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
                fn avx2 <$($t: $bound,)? $($(const $c: $ct),+)?> ($($arg: $ty),*) $(-> $out)? {
                    $body ::<$($t,)? $($($c),+)?> ($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
                fn avx512 <$($t: $bound,)? $($(const $c: $ct),+)?> ($($arg: $ty),*) $(-> $out)? {
                    $body ::<$($t,)? $($($c),+)?> ($($arg),*)
                }
                match $crate::simd::level() {
                    // SAFETY: `level` never exceeds what `detected` found on this processor.
                    $crate::simd::Level::Avx512 => return unsafe { avx512 ::<$($t,)? $($($c),+)?> ($($arg),*) },
                    // SAFETY: as above.
                    $crate::simd::Level::Avx2 => return unsafe { avx2 ::<$($t,)? $($($c),+)?> ($($arg),*) },
                    $crate::simd::Level::Baseline => {}
                }
            }
            $body ::<$($t,)? $($($c),+)?> ($($arg),*)
        }
    };
}
pub use crate::dispatch;
