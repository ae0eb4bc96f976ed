"""Images in, views out: the sources of pictures, the loader, random views and masks."""
