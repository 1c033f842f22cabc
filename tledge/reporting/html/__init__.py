"""Results as pages: one HTML file each, that needs no network and no server."""
