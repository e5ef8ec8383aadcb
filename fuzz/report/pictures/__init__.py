"""Pictures of findings: grids of letters with a legend, drawn on a terminal and on a page."""
