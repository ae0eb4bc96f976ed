"""Images in, views out: data sources, prepared images, loaders, random views and masks."""
