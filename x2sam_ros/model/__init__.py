"""The network: one file per part named in the paper. Weights only; time lives in the engine."""
