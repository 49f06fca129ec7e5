"""What is published: pages, README's and docs' tables, the web page's parts."""
