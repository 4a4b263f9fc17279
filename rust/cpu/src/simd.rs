//! One source per loop, compiled for the vector instructions of several processors and chosen at run time.
//!
//! The loops are plain arithmetic over fixed-size arrays. A multiply-add is fused where the source says `mul_add`, and
//! nowhere else (Rust does not contract), so every choice gives the same bits. (Without the instruction, the C library
//! works `mul_add` out: x86 processors before 2013 take many times as long there.)

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
        if std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("avx512vl")
            && std::arch::is_x86_feature_detected!("fma")
        {
            return Level::Avx512;
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            return Level::Avx2;
        }
    }
    Level::Baseline
}

/// The level in use.
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

/// Defines `fn name(args)` that runs the `#[inline(always)]` function `body` compiled for the level in use.
#[macro_export]
macro_rules! dispatch {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $(<$($g:ident : $bound:path),+>)? ($($arg:ident : $ty:ty),* $(,)?) $(-> $out:ty)? = $body:ident;) => {
        $(#[$meta])*
        $vis fn $name $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
                fn avx2 $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $out)? {
                    $body ($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
                fn avx512 $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $out)? {
                    $body ($($arg),*)
                }
                match $crate::simd::level() {
                    // SAFETY: `level` never exceeds what `detected` found on this processor.
                    $crate::simd::Level::Avx512 => return unsafe { avx512 ($($arg),*) },
                    // SAFETY: as above.
                    $crate::simd::Level::Avx2 => return unsafe { avx2 ($($arg),*) },
                    $crate::simd::Level::Baseline => {}
                }
            }
            $body ($($arg),*)
        }
    };
}
pub use crate::dispatch;
