"""What this kernel offers (probed once) and what /proc says; no policy."""
