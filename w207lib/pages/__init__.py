"""What is published: pages, README's tables, the web page's parts."""
