from dvfl.cli import main

main()
