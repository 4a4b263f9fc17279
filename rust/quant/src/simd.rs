//! One source per kernel, cloned under `#[target_feature]` for each level and dispatched at run time.
//!
//! The kernels are plain loops over slices; the compiler vectorizes each clone with what the level allows. No fused
//! multiply-add is ever formed (Rust does not contract; kernels over vectors that name one say why its bits are right), so
//! every level gives the same bits.

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
        // Every processor with AVX2 also converts fp16 and multiplies and adds at once, which counts as one with it here.
        let halves_and_fused =
            std::arch::is_x86_feature_detected!("f16c") && std::arch::is_x86_feature_detected!("fma");
        if std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("avx512vl")
            && halves_and_fused
        {
            return Level::Avx512;
        }
        if std::arch::is_x86_feature_detected!("avx2") && halves_and_fused {
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
        _ => {
            let level = detected();
            CURRENT.store(level as u8, Ordering::Relaxed);
            level
        }
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
macro_rules! dispatch {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $([$t:ident : $bound:ident])? $(<$(const $c:ident : $ct:ty),+>)? ($($arg:ident : $ty:ty),* $(,)?) $(-> $out:ty)? = $body:ident;) => {
        $(#[$meta])*
        $vis fn $name <$($t: $bound,)? $($(const $c: $ct),+)?> ($($arg: $ty),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,f16c,bmi1,bmi2,lzcnt,popcnt")]
                fn avx2 <$($t: $bound,)? $($(const $c: $ct),+)?> ($($arg: $ty),*) $(-> $out)? {
                    $body ::<$($t,)? $($($c),+)?> ($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c,bmi1,bmi2,lzcnt,popcnt")]
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
pub(crate) use dispatch;
