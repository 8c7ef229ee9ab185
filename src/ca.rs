//! Root key, leaf minting, leaf cache, trust bundle.
