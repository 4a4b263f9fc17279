//! One source per loop, compiled for the vector instructions of several processors and chosen at run time.
//!
//! The loops are plain arithmetic over [`crate::elementary::LANES`] numbers at a time. No fused multiply-add is formed
//! (Rust does not contract), so every choice gives the same bits.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Baseline,
    Avx2,
    Avx512,
}

pub fn level() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        // The standard library remembers the answers.
        if std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512dq") {
            return Level::Avx512;
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            return Level::Avx2;
        }
    }
    Level::Baseline
}

/// Defines `fn name(args)` that runs the `#[inline(always)]` function `body` compiled for this processor.
macro_rules! dispatch {
    ($(#[$meta:meta])* $vis:vis fn $name:ident ($($arg:ident : $ty:ty),* $(,)?) $(-> $out:ty)? = $body:ident;) => {
        $(#[$meta])*
        $vis fn $name ($($arg: $ty),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt")]
                fn avx2 ($($arg: $ty),*) $(-> $out)? {
                    $body ($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512dq,avx2,bmi1,bmi2,lzcnt")]
                fn avx512 ($($arg: $ty),*) $(-> $out)? {
                    $body ($($arg),*)
                }
                match $crate::simd::level() {
                    // SAFETY: `level` names only what this processor has.
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
pub(crate) use dispatch;
