// The stages of a step and the flags of a row.
// CPU twins: `cell::Stage`, `cell::Sequence`.

const WHOLE: u32 = 0u;
const RESET: u32 = 1u;
const CANDIDATE: u32 = 2u;
const PROJECT: u32 = 3u;

const FLAG_VALID: u32 = 1u;
const FLAG_RESET: u32 = 2u;
