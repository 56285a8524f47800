"""The picture of a run: one HTML file that needs no network, no server and no build step.

Charts are SVG that is drawn here, so a report is readable without scripts and prints; the script
adds only the cross-hair. It is a pure function of the result: one seed, one report, byte for byte.
"""
