//! What loops need to know of the processor: [`simd`], its vector instructions; [`threads`], its cores;
//! [`elementary`], exp and ln in vectors; [`turn`], rows to columns in registers.

pub mod elementary;
pub mod simd;
pub mod threads;
pub mod turn;
