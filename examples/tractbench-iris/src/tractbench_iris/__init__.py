"""Fisher's iris measurements for tractbench."""
