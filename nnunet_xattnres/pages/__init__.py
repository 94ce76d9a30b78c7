"""What the commands' pages and pictures are made of: HTML, slices of images, figures."""
