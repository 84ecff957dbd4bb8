"""Pages that show what came out, one self-contained HTML file each."""
