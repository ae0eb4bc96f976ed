"""From image files to views: data sources, prepared images, loaders, random views and masks."""
