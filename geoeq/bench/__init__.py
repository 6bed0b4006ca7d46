"""Side by side: every way to treat symmetry on tasks whose true symmetry is known."""
